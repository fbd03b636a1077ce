"""A trace of 1,000 requests in the format of the public Azure traces, drawn; put your own log in its place."""

import csv
import random
import sys
from datetime import UTC, datetime, timedelta

draw = random.Random(0)
now = datetime(2026, 1, 1, tzinfo=UTC)
rows = csv.writer(sys.stdout)
rows.writerow(["TIMESTAMP", "ContextTokens", "GeneratedTokens"])
for _ in range(1000):
    now += timedelta(seconds=draw.expovariate(6.0))
    prompt = min(8000, max(8, int(draw.lognormvariate(6.5, 0.8))))
    output = min(1500, max(2, int(draw.lognormvariate(5.0, 0.7))))
    rows.writerow([now.isoformat(), prompt, output])
