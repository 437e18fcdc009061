import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for a model hub
os.environ.setdefault("OMP_NUM_THREADS", "2")
