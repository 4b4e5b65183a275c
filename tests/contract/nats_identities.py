"""Who may use a NATS server: JWTs as `nsc` makes them, and certificates from a small authority of our own."""

import base64
import hashlib
import json
import os
import subprocess
import time

import nkeys

UNLIMITED = {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "conn": -1, "leaf": -1}


def new_key(prefix):
    """Return a fresh key pair and its seed."""
    seed = nkeys.encode_seed(os.urandom(32), prefix)
    return nkeys.from_seed(bytearray(seed)), seed.decode()


def _text(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwt(issuer, subject, kind, **claims):
    """Return a JWT of version 2, signed with the issuer's key."""
    body = {
        "iat": int(time.time()),
        "iss": issuer.public_key.decode(),
        "name": kind,
        "sub": subject.public_key.decode(),
        "nats": {"type": kind, "version": 2, **claims},
    }
    body["jti"] = base64.b32encode(hashlib.sha256(json.dumps(body).encode()).digest()).decode().rstrip("=")
    head = {"typ": "JWT", "alg": "ed25519-nkey"}
    signed = f"{_text(json.dumps(head).encode())}.{_text(json.dumps(body).encode())}"
    return f"{signed}.{_text(issuer.sign(signed.encode()))}"


def operator_mode(file):
    """Write credentials of a user to ``file``, and return the configuration of a server that accepts them."""
    operator, _ = new_key(nkeys.PREFIX_BYTE_OPERATOR)
    account, _ = new_key(nkeys.PREFIX_BYTE_ACCOUNT)
    user, seed = new_key(nkeys.PREFIX_BYTE_USER)
    account_jwt = jwt(operator, account, "account", limits={**UNLIMITED, "wildcards": True})
    user_jwt = jwt(account, user, "user", pub={}, sub={}, subs=-1, data=-1, payload=-1)
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
    return "\n".join(
        [
            f"operator: {jwt(operator, operator, 'operator')}",
            "resolver: MEMORY",
            f"resolver_preload: {{ {account.public_key.decode()}: {account_jwt} }}",
        ]
    )


def certificates(folder):
    """Make an authority (ca.pem), a server for 127.0.0.1 (server.pem, server.key), and a client (client.pem, .key)."""

    def openssl(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name in ("ca", "other"):
        words = ("-x509", *curve, "-days", "2", "-keyout", f"{name}.key", "-out", f"{name}.pem")
        openssl("req", *words, "-subj", f"/CN=authority {name}")
    for name in ("server", "client"):
        openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "extra").write_text("subjectAltName=IP:127.0.0.1\n")
        words = (
            "-req",
            "-in",
            f"{name}.csr",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
        )
        openssl("x509", *words, "-out", f"{name}.pem", "-extfile", "extra")
