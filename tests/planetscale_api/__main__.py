"""Run the API until standard input ends: ``python -m planetscale_api FOLDER`` writes its port, and serves."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from planetscale_api.cluster import certificate
from planetscale_api.provider import Provider
from planetscale_api.web import Api, application


async def main() -> None:
    """Serve."""
    root = Path(sys.argv[1])
    certificate(root)
    provider = Provider(root)
    listening, port = bind_unused_port()
    server = HTTPServer(application(Api(provider)))
    server.add_socket(listening)
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    try:
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    finally:
        provider.end()


asyncio.run(main())
