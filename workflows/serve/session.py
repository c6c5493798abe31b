"""The session of the page: a token is given once, a cookie stands for it from then on."""

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from workflows.serve.access import COOKIE
from workflows.serve.bodies import Strict
from workflows.serve.context import Here, Owner

router = APIRouter(tags=["session"])


class Token(Strict):
    token: str = Field(min_length=1, max_length=1000)


class Session(BaseModel):
    owner: str


@router.get("/v1/session")
async def show_session(owner: Owner) -> Session:
    """Who is asking."""
    return Session(owner=owner)


@router.post("/v1/session", status_code=204)
async def sign_in(here: Here, request: Request, body: Token) -> Response:
    """Sign in: a cookie that scripts cannot read stands for the token."""
    cookie, seconds = here.access.sign_in(request, body.token)
    response = Response(status_code=204)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, cookie, max_age=seconds, httponly=True, samesite="strict", secure=secure)
    return response


@router.delete("/v1/session", status_code=204)
async def sign_out(here: Here, request: Request) -> Response:
    """Sign out."""
    here.access.require_own_page(request)
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response
