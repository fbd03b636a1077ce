"""The command line, the only place that prints and exits. Heavy imports happen inside the commands."""
