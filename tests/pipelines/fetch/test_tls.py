"""Certificates are checked against the name in the URL, with one TLS context a process."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from lposekit.errors import Outcome, UsageError
from pipelines.fetch.connection import make_tls_context
from pipelines.fetch.opener import GuardedOpener
from pipelines.fetch.polite import polite_opener
from tests.pipelines.fetch.conftest import names, opener_for, quick_settings, rejection
from tests.support.bad_server import BadServer
from tests.support.certificates import CertificateAuthority
from tests.support.pages import tiny_jpeg

pytestmark = pytest.mark.timeout(180)


def test_a_trusted_certificate_is_accepted(authority: CertificateAuthority) -> None:
    with BadServer(tls=authority.server_context("127.0.0.1")) as server:
        opener = opener_for(server, ca_file=authority.ca_file)
        assert [opener.fetch(f"{server.url}/ok").body for _ in range(3)] == [tiny_jpeg()] * 3
        assert server.num_connections == 1


# Mutation: `context.check_hostname = False; context.verify_mode = ssl.CERT_NONE`.
@pytest.mark.case(10)
def test_an_unknown_authority_is_refused(authority: CertificateAuthority, tmp_path: Path) -> None:
    stranger = CertificateAuthority.create(tmp_path)
    with BadServer(tls=stranger.server_context("127.0.0.1")) as server:
        why = rejection(opener_for(server, ca_file=authority.ca_file), f"{server.url}/ok")
        assert why.outcome is Outcome.TLS
        assert server.hits == []
        assert server.num_connections == 1  # permanent: not tried again


@pytest.mark.parametrize(("certified", "expired"), [("other.test", False), ("127.0.0.1", True)])
def test_a_wrong_name_or_an_expired_certificate_is_refused(
    authority: CertificateAuthority, certified: str, expired: bool
) -> None:
    with BadServer(tls=authority.server_context(certified, expired=expired)) as server:
        assert rejection(opener_for(server, ca_file=authority.ca_file), f"{server.url}/ok").outcome is Outcome.TLS
        assert server.hits == []


# Mutation: `server_hostname=addresses[0]`.
def test_the_name_of_the_url_is_checked_not_the_address_dialled(authority: CertificateAuthority) -> None:
    with BadServer(tls=authority.server_context("sample.test")) as server:
        opener = GuardedOpener(
            quick_settings(ca_file=authority.ca_file),
            resolver=names({"sample.test": ["127.0.0.1"]}),
            allowed_local=frozenset({f"sample.test:{server.port}"}),
        )
        assert opener.fetch(f"{server.url_as('sample.test')}/ok").body == tiny_jpeg()


def test_a_server_that_speaks_no_tls_is_a_tls_failure(server: BadServer) -> None:
    why = rejection(opener_for(server, retries=0), f"https://{server.authority}/ok")
    assert why.outcome is Outcome.TLS


def test_ssl_cert_file_is_honoured(authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    with BadServer(tls=authority.server_context("127.0.0.1")) as server:
        assert opener_for(server).fetch(f"{server.url}/ok").body == tiny_jpeg()


# Mutation: make the context in `_request` without keeping it (28 ms of CPU an image, as img2dataset does).
def test_the_tls_context_is_made_once(authority: CertificateAuthority, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[ssl.SSLContext] = []
    real = ssl.create_default_context

    def counted(*arguments: object, **options: object) -> ssl.SSLContext:
        made.append(real(*arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(ssl, "create_default_context", counted)
    with BadServer(tls=authority.server_context("127.0.0.1")) as server:
        opener = opener_for(server, ca_file=authority.ca_file)
        for _ in range(5):
            opener.fetch(f"{server.url}/hang-up-after")
    assert len(made) == 1


def test_an_unusable_ca_file_is_named_before_anything_is_fetched(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    for ca_file in (broken, tmp_path / "missing.pem"):
        with pytest.raises(UsageError, match=ca_file.name):
            polite_opener(quick_settings(ca_file=ca_file))


def test_a_machine_without_certificates_gets_certifis(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "missing"))
    assert make_tls_context().cert_store_stats()["x509_ca"] > 50
