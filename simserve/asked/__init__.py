"""From options (`--model`, `--rate`, `--ttft`, ...) to the study that they describe."""
