"""Downstreams that want a client certificate: what they say of it by TLS, which no HTTP answer follows."""

from __future__ import annotations

import ssl

import pytest
import trustme

from controller.api.update_stream import StepSpec
from controller.clients.downstream import Downstream
from controller.clients.tls import ClientTls
from controller.core.outcomes import Misconfigured
from controller.core.steps import PROFILE
from tests.support.wire import made, tls_server


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
@pytest.mark.parametrize("shown", [False, True], ids=["none", "of a stranger"])
async def test_a_server_that_wants_another_client_certificate_blames_the_stream(
    version: ssl.TLSVersion, shown: bool
) -> None:
    """By TLS 1.3 the alert comes after the handshake, and may be lost to a reset."""
    authority, stranger = trustme.CA(), trustme.CA().issue_cert("stranger")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.maximum_version, context.verify_mode = version, ssl.CERT_REQUIRED
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    tls = ClientTls(
        stranger.cert_chain_pems[0].bytes().decode() if shown else "",
        stranger.private_key_pem.bytes().decode() if shown else "",
        authority.cert_pem.bytes().decode(),
    )
    with tls_server(context) as url:
        async with Downstream() as client:
            for number in range(10):
                outcome = await client.call(PROFILE, StepSpec(url, timeout_seconds=5), made(), f"k{number}", tls=tls)
                assert isinstance(outcome, Misconfigured), outcome
                assert ("refuses the client certificate" if shown else "tls.crt and tls.key belong") in outcome.message
