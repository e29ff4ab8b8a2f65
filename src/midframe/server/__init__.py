"""The web door: an HTTP API and a small page over a queue of jobs that outlives the server.

- `app`, `sources`, `runs`: routes; `wire`: what goes over them; `guard`: who may speak
- `house`: the parts of a running server; `events`: who listens
- `jobs`: the SQLite store; `child`: a process that may die; `worker`: who feeds it
- `paths`: what may be opened; `plan`: predictions; `runner`: the bridge to midframe

The app is handed the functions that look at a film and run a job, so that all of it is tested with fakes. FastAPI and
uvicorn come with the extra `web`.
"""
