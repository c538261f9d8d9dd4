"""Demo service A: `python -m uvicorn services.service_a.main:app --port 8001`. See services/common.py."""

from services.common import make_service

app = make_service("service-a")
