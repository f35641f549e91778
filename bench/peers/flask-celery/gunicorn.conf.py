"""How gunicorn serves; it finds this file by its name."""

import os

bind = f"127.0.0.1:{os.environ['PORT']}"
worker_class = "gthread"
workers = 2
threads = 16
keepalive = 60
loglevel = "warning"


def post_worker_init(worker):
    # In one piece: two workers share the pipe.
    os.write(1, b"up\n")
