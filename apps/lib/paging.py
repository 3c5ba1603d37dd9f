"""The one shape of every list in the API: `{count, next, previous, results}`."""

from typing import Any

from rest_framework.exceptions import ValidationError
from rest_framework.pagination import PageNumberPagination
from rest_framework.request import Request


class Pages(PageNumberPagination):
    """50 rows a page, `?page=` and `?page_size=` up to 500."""

    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 500

    def get_page_size(self, request: Request) -> int:
        """Return how many rows a page has. Raises ValidationError for what is no such number."""
        given: Any = request.query_params.get(self.page_size_query_param)
        if given is None:
            return self.page_size
        if not given.isdecimal() or int(given[:9]) < 1:
            raise ValidationError(
                {self.page_size_query_param: "Give a whole number from 1 to 500."}
            )
        return min(int(given[:9]), self.max_page_size)
