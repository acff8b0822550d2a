"""The caller's side: endpoints and the v2 API."""
