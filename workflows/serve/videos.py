"""Videos on their way in and here."""

from fastapi import APIRouter

router = APIRouter()
