"""The server of a live session: a page, a WebSocket (docs/protocol.md), and a few addresses beside them.

    GET  /                     the page                                        GET  /healthz  how far loading is
    WS   /session              the session                                     GET  /metrics  for Prometheus
    POST /pictures             a first frame of one's own                      GET  /recordings  their identifiers
                                                                               GET  /recordings/ID.mp4  the film

It answers as soon as it listens; the model is loaded meanwhile, in a thread of its own.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from simulator.connection import attend
from simulator.guard import Guard, Security
from simulator.limits import Budget
from simulator.listener import configuration, listen
from simulator.metrics import CONTENT_TYPE
from simulator.pictures import MOST_BYTES, PictureError, decoded
from simulator.room import Room

if TYPE_CHECKING:
    from simulator.engine import Engine, Scene

PAGE = Path(__file__).parent / "page"
FILM = "film.mp4"
"""Of a recording (`simulator.recording`)."""
PICTURES_PER_SECOND = 2
PICTURE_SECONDS = 20.0
"""For a picture to arrive."""
Handler = Callable[[Request], Awaitable[Response]]


def build_app(
    load: "Callable[[], Engine]", *, security: Security, page: Path = PAGE, recordings: Path | None = None
) -> Starlette:
    """load: gives an engine that has not been started; the server starts it and closes it. page: folder with files.
    recordings: the folder in which the engine makes them; without it they cannot be fetched."""
    room = Room(load, security)
    routes = Routes(room, recordings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        room.open()
        yield
        await room.close()

    async def session(websocket: WebSocket) -> None:
        await attend(websocket, room)

    app = Starlette(
        routes=[
            WebSocketRoute("/session", session),
            Route("/healthz", routes.health),
            Route("/metrics", routes.private(routes.metrics)),
            Route("/pictures", routes.private(routes.add_picture), methods=["POST"]),
            Route("/recordings", routes.private(routes.list_recordings)),
            Route("/recordings/{id}.mp4", routes.private(routes.film)),
            Mount("/", StaticFiles(directory=page, html=True)),
        ],
        middleware=[Middleware(Guard, security=security)],
        lifespan=lifespan,
    )
    app.state.room = room
    return app


def serve(app: Starlette, host: str, port: int, *, listening: Callable[[int], None] | None = None) -> None:
    """Until Ctrl-C; the engine is closed then. listening: is told the port when it is bound (0 takes any).

    UserError if the port cannot be had.
    """
    with listen(host, port) as listener:
        if listening is not None:
            listening(listener.getsockname()[1])
        with suppress(KeyboardInterrupt):  # uvicorn has ended in good order, and raises it again
            uvicorn.Server(configuration(app)).run(sockets=[listener])
    room: Room = app.state.room
    if room.engine is not None:
        room.engine.close()  # where a second Ctrl-C cut the good order short


class Routes:
    """What is answered over plain HTTP."""

    def __init__(self, room: Room, recordings: Path | None) -> None:
        self.room = room
        self._recordings = recordings
        self._pictures = Budget(PICTURES_PER_SECOND)
        self._decoding = asyncio.Semaphore(1)  # so that pictures cost no more memory than one does

    def private(self, handler: Handler) -> Handler:
        """Only for those who have the token, where one is needed."""

        async def checked(request: Request) -> Response:
            if self.room.security.admits(request):
                return await handler(request)
            return JSONResponse(
                {"error": "the token is wrong or missing"}, status_code=401, headers={"www-authenticate": "Bearer"}
            )

        return checked

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": self.room.status})

    async def metrics(self, request: Request) -> Response:
        text = self.room.metrics.text(
            drivers=int(self.room.driver is not None),
            viewers=len(self.room.viewers),
            sockets=self.room.sockets,
            dropped=sum(member.outbox.dropped for member in self.room.members),
        )
        return Response(text, media_type=CONTENT_TYPE)

    async def add_picture(self, request: Request) -> Response:
        """The body is the picture. Answers {"scene": id}."""
        if self.room.engine is None:
            return JSONResponse({"error": "the model is not loaded"}, status_code=503)
        if not self._pictures.spend(1):
            return JSONResponse({"error": "too many pictures at a time"}, status_code=429)
        if not request.headers.get("content-type", "").startswith("image/"):
            return JSONResponse({"error": "the body must be an image"}, status_code=415)
        try:
            data = await asyncio.wait_for(read_at_most(request, MOST_BYTES), PICTURE_SECONDS)
            async with self._decoding:
                scene = await asyncio.to_thread(self._scene_of, data)
        except PictureError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        except asyncio.TimeoutError:
            return JSONResponse({"error": "the picture took too long to arrive"}, status_code=408)
        self.room.metrics.pictures += 1
        return JSONResponse({"scene": scene.id})

    async def list_recordings(self, request: Request) -> Response:
        return JSONResponse({"recordings": sorted(self._films())})

    async def film(self, request: Request) -> Response:
        """Of an identifier that is in the list; it is looked up there, and never made into a path."""
        film = self._films().get(request.path_params["id"])
        if film is None:
            return JSONResponse({"error": "there is no such recording"}, status_code=404)
        return FileResponse(film, media_type="video/mp4")

    def _films(self) -> dict[str, Path]:
        if self._recordings is None or not self._recordings.is_dir():
            return {}
        films = {folder.name: folder / FILM for folder in self._recordings.iterdir() if not folder.is_symlink()}
        return {name: film for name, film in films.items() if film.is_file() and not film.is_symlink()}

    def _scene_of(self, data: bytes) -> "Scene":
        engine = self.room.engine
        assert engine is not None
        about = engine.welcome()
        picture = decoded(data, about["height"], about["width"])
        return engine.add_scene(f"picture {self.room.metrics.pictures + 1}", picture)


async def read_at_most(request: Request, size: int) -> bytes:
    """The body; of one that is longer, a little more than `size`, for the caller to refuse."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > size:
            break
    return bytes(data)
