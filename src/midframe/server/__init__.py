"""The web door: an HTTP API and a small page over a queue of jobs that outlives the server.

`app` knows HTTP, `jobs` knows SQLite, `worker` knows processes, `paths` knows what may be opened, `plan` predicts,
`runner` knows midframe. The app is handed the functions that look at a file and run a job, so that all of it is
tested with fakes. FastAPI and uvicorn come with the extra `web`.
"""
