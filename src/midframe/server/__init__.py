"""The HTTP API and the page, over a queue of jobs that outlives the server. Its files: docs/architecture.md.

The functions that process videos are passed in (`backend.Backend`), so tests run the application with fakes. FastAPI
and uvicorn come with the extra `web`.
"""
