"""The service: pages and a JSON API over one storage, for a browser (extra `serve`)."""
