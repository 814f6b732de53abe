"""Open a bucket with what the environment says, and say in one line why it refused.

Credentials are read from the environment each time and go nowhere else: not into a cache, not into
a recipe, not into what an error says.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from functools import lru_cache
from typing import Any

from geocache.errors import ConfigError, StorageError

__all__ = ["bucket_and_prefix", "never_happened", "open_bucket", "refusal"]

RETRY: dict[str, Any] = {
    "max_retries": 6,
    "retry_timeout": timedelta(seconds=180),
    "backoff": {
        "init_backoff": timedelta(milliseconds=200),
        "max_backoff": timedelta(seconds=15),
        "base": 2,
    },
}
_TIMEOUTS = {"connect_timeout": timedelta(seconds=10), "timeout": timedelta(seconds=300)}
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_OTHER_SOURCES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_METADATA_ENDPOINT",
)
_SECRETS = (*_KEYS, "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN")
_ADDRESS = re.compile(r"s3://([A-Za-z0-9][A-Za-z0-9._-]*)(?:/(.*))?")
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")


def bucket_and_prefix(root: str) -> tuple[str, str]:
    """Return the bucket and the prefix of `s3://BUCKET/PREFIX`; ConfigError for anything else."""
    found = _ADDRESS.fullmatch(root)
    prefix = (found[2] or "").rstrip("/") if found else ""
    parts = prefix.split("/") if prefix else []
    if found is None or any(part in ("", ".", "..") for part in parts):
        raise ConfigError(
            f"a bucket's address must be s3://BUCKET/PREFIX, got '{_redacted(root)}'. Credentials "
            "belong into the environment, the server into AWS_ENDPOINT_URL."
        )
    return found[1], prefix


def open_bucket(root: str) -> Any:
    """Return obstore's store of a bucket, shared in this process while the environment is the same.

    Raises ConfigError where the extra `s3` is not installed, StorageError without credentials.
    """
    bucket, _ = bucket_and_prefix(root)
    settings = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_")))
    _check_credentials(bucket, dict(settings))
    try:
        return _store(bucket, settings)
    except ImportError:
        raise ConfigError(
            f"a store in a bucket ({root}) must have the extra 's3' installed. Run "
            "`pip install 'geocache[s3]'`."
        ) from None
    except Exception as error:
        raise refusal(error, "", root) from None


@lru_cache(maxsize=16)
def _store(bucket: str, settings: tuple[tuple[str, str], ...]) -> Any:
    from obstore.store import S3Store

    environment = dict(settings)
    endpoint = _endpoint(environment)
    config = {"conditional_put": "etag", **({"endpoint": endpoint} if endpoint else {})}
    allow_http = endpoint is not None and endpoint.startswith("http://")
    options = {**_TIMEOUTS, "allow_http": allow_http}
    return S3Store(bucket, config=config, client_options=options, retry_config=RETRY)


def _endpoint(environment: dict[str, str]) -> str | None:
    return environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or None


def _check_credentials(bucket: str, environment: dict[str, str]) -> None:
    """Refuse at once where obstore would ask a cloud machine's metadata service for a long time."""
    unsigned = environment.get("AWS_SKIP_SIGNATURE", "").lower() in ("true", "1")
    if unsigned or any(environment.get(name) for name in _OTHER_SOURCES):
        return
    absent = [name for name in _KEYS if not environment.get(name)]
    if absent:
        raise StorageError(
            f"credentials for bucket '{bucket}' must be in the environment, got no "
            f"{' and no '.join(absent)}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and "
            "AWS_SESSION_TOKEN where yours has one), or AWS_SKIP_SIGNATURE=true for a bucket that "
            "everybody may read."
        )


def never_happened(error: Exception) -> bool:
    """Return whether the server said no; otherwise a write may have happened without a reply."""
    status = _STATUS.search(str(error))
    return status is not None and status[1].startswith("4")


def refusal(error: Exception, key: str, root: str) -> StorageError:
    """Return what to tell the user of an error of obstore; no secret stands in it."""
    text = str(error)
    bucket, _ = bucket_and_prefix(root)
    server = _endpoint(dict(os.environ)) or "AWS"
    status, code = _STATUS.search(text), _CODE.search(text)
    said = " ".join(found[1] for found in (status, code) if found)
    where = f"(object '{key}' in {root})" if key else f"(in {root})"
    if code and code[1] == "NoSuchBucket":
        message = (
            f"bucket '{bucket}' must exist, got {said} from {server} {where}. Create it, or check "
            "its name and AWS_ENDPOINT_URL."
        )
    elif status and status[1] in ("401", "403"):
        message = (
            f"access to bucket '{bucket}' must be granted, got {said} from {server} {where}. Check "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that they may list, read and write "
            "there."
        )
    elif status and status[1].startswith("3"):
        message = (
            f"bucket '{bucket}' must be in the region that is asked, got {said} from {server} "
            f"{where}. Set AWS_REGION."
        )
    elif status:
        message = (
            f"bucket '{bucket}' must answer, got {said} from {server} {where}. What was committed "
            "is safe; run the same command again later."
        )
    elif "error sending request" in text or "timed out" in text:
        message = (
            f"bucket '{bucket}' must be in reach, got no answer from {server} {where}. Check the "
            "network and AWS_ENDPOINT_URL; what was committed is safe, run the same command again."
        )
    else:
        reason = " ".join(text.partition("Debug source")[0].split())[:300]
        message = f"bucket '{bucket}' refused: {reason} {where}. Run the same command again."
    return StorageError(_redacted(message))


def _redacted(text: str) -> str:
    for name in _SECRETS:
        value = os.environ.get(name)
        if value:
            text = text.replace(value, "***")
    return re.sub(r"//[^/@\s]*@", "//***@", text)
