"""A model behind HTTP: health, recordings in one request, frames one by one. The only importer of FastAPI and uvicorn."""
