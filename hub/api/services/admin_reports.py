"""The lists of AdminService that go through all integrations: the privilege report, and the subscriptions."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from tickets.hub.v1 import admin_service_pb2
from tickets.hub.v1.event_service_pb2 import Subscription

from hub.api import convert
from hub.api.paging import Pages
from hub.api.services.subscription_status import SubscriptionList
from hub.clock import Clock
from hub.config import Settings
from hub.control.privileges import Finding, findings
from hub.control.registry import Registry


class Reports:
    """Builds the lists page by page."""

    def __init__(
        self, registry: Registry, shown: SubscriptionList, pages: Pages, settings: Settings, clock: Clock
    ) -> None:
        self._registry = registry
        self._subscriptions_list = shown
        self._pages = pages
        self._clock = clock
        self._grace = round(settings.report_grace * convert.MICROS)

    async def privileges(
        self, request: admin_service_pb2.GetPrivilegeReportRequest
    ) -> admin_service_pb2.GetPrivilegeReportResponse:
        """A page of the privilege report."""
        if request.integration_id:
            self._registry.integration(request.integration_id)
        listing = ("report", request.integration_id)
        after = tuple(self._pages.after(request.page_token, *listing) or ())
        found = self._findings(request.integration_id, after)
        page, token = await self._pages.page(found, convert.finding, lambda finding: finding.place, request, *listing)
        return admin_service_pb2.GetPrivilegeReportResponse(findings=page, next_page_token=token)

    async def subscriptions(
        self, request: admin_service_pb2.ListSubscriptionsRequest
    ) -> admin_service_pb2.ListSubscriptionsResponse:
        """The subscriptions of one integration, or a page of all."""
        if request.integration_id:
            self._registry.integration(request.integration_id)
            return admin_service_pb2.ListSubscriptionsResponse(
                subscriptions=await self._subscriptions_list.of_integration(request.integration_id)
            )
        after = self._pages.after(request.page_token, "subscriptions")
        page, token = await self._pages.page(
            self._subscriptions((str(after[0]), str(after[1])) if after else ("", "")),
            lambda one: one,
            lambda one: (one.integration_id, one.subscription_id),
            request,
            "subscriptions",
        )
        return admin_service_pb2.ListSubscriptionsResponse(subscriptions=page, next_page_token=token)

    async def _findings(self, only: str, after: tuple[int | str, ...]) -> AsyncGenerator[Finding, None]:
        """The findings after a place, of one integration or (only = "") of all; the service keys come last."""
        now, begin = self._clock.now(), str(after[0]) if after else ""
        if only or begin in self._registry.integrations:
            for finding in self._later(only or begin, after, now):
                yield finding
        if only:
            return
        async with aclosing(self._pages.scans.walk(self._registry.catalog.ids_after, str, begin or None)) as ids:
            async for integration_id in ids:
                for finding in self._later(integration_id, after, now):
                    yield finding
        for finding in self._later("", after, now):
            yield finding

    def _later(self, integration_id: str, after: tuple[int | str, ...], now: int) -> list[Finding]:
        found = findings(self._registry, integration_id, now, self._grace)
        return [finding for finding in found if not after or finding.place > after]

    async def _subscriptions(self, after: tuple[str, str]) -> AsyncGenerator[Subscription, None]:
        """The subscriptions of all integrations after a place (integration, name), in that order."""
        async for one in self._subscriptions_list.of_integration_after(*after):
            yield one
        async with aclosing(self._pages.scans.walk(self._registry.catalog.ids_after, str, after[0] or None)) as ids:
            async for integration_id in ids:
                async for one in self._subscriptions_list.of_integration_after(integration_id, ""):
                    yield one
