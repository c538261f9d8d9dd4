"""Demo service B: `python -m uvicorn services.service_b.main:app --port 8002`. See services/common.py."""

from services.common import make_service

app = make_service("service-b")
