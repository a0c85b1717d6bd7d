"""Errors of object stores as one line with a remedy: wrong keys, bucket, region, endpoint.

The words are those of the services, which obstore (outputs) and pyarrow (inputs) pass on in texts
of their own. No message repeats such a text whole: it may hold the id of a key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from gmm_dask.addresses import ObjectAddress
from gmm_dask.errors import StorageError

_REMEDIES = (
    (
        r"SignatureDoesNotMatch|SIGNATURE_DOES_NOT_MATCH",
        "the secret key does not belong to the key id; check AWS_SECRET_ACCESS_KEY",
    ),
    (
        r"InvalidAccessKeyId|INVALID_ACCESS_KEY_ID|INVALID_CLIENT_TOKEN_ID",
        "the store does not know the key id; check AWS_ACCESS_KEY_ID, and that {where} is the "
        "store that it belongs to",
    ),
    (
        r"ExpiredToken|EXPIRED_TOKEN|InvalidToken|INVALID_TOKEN|TokenRefreshRequired",
        "the credentials have expired; get new ones, and check AWS_SESSION_TOKEN",
    ),
    (
        r"RequestTimeTooSkewed|REQUEST_TIME_TOO_SKEWED",
        "the clock of this machine is wrong by minutes; set it",
    ),
    (
        r"NoSuchBucket|NO_SUCH_BUCKET|ContainerNotFound|specified bucket does not exist",
        "there is no such bucket; create it, correct the address, or check {where}",
    ),
    (
        r"AuthorizationHeaderMalformed|AUTHORIZATION_HEADER_MALFORMED|PermanentRedirect|Redirect|"
        r"IllegalLocationConstraint|MissingRegion|HTTP status 301|301 Moved|307 Temporary",
        "the bucket is in another region{region}; set AWS_REGION to it",
    ),
    (
        r"169\.254\.169\.254|/latest/api/token|metadata\.google|MissingCredentials|NoCredentials|"
        r"InstanceProfile|could not find credentials|Account must be specified",
        "there are no credentials in the environment; set {keys}, on every worker too; profiles "
        "are not read",
    ),
    (
        r"AccessDenied|ACCESS_DENIED|403 Forbidden|HTTP status 403|necessary privileges|"
        r"401 Unauthorized|HTTP status 401|lacked valid authentication",
        "access is denied; check {keys}{unset}, and that they may list, read, write and delete "
        "here",
    ),
    (
        r"SSL connect error|\bTLS\b|invalid peer certificate",
        "no secure connection came about; check the scheme of {where}, http:// or https://",
    ),
    (
        r"error sending request|NETWORK_CONNECTION|Could not resolve|Could not connect|"
        r"Connection refused|dns error|tcp connect error|operation timed out|curlCode",
        "the store does not answer; check {where}{endpoint} and the network",
    ),
    (
        r"SlowDown|SLOW_DOWN|ServiceUnavailable|503 Service|InternalError|500 Internal",
        "the store is too busy; try again later",
    ),
    (r"NotImplemented|501 Not", "the store does not know this kind of request; use another store"),
    (r"QuotaExceeded|507 Insufficient|XMinioStorageFull", "the store is full; free some space"),
)
# What a conditional put may be answered although it was done, or could still be done.
_OPEN = re.compile(
    r"412 Precondition|409 Conflict|404 Not Found|error sending request|timed out|SlowDown|"
    r"ServiceUnavailable|503 |500 |502 |504 |connection (closed|reset)|IncompleteMessage"
)
_SETTLED = re.compile("NoSuchBucket|ContainerNotFound|tcp connect error|dns error|latest/api/token")
#: The variables that hold the credentials for a store.
_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_REGION = re.compile(r"expecting '([a-z0-9-]+)'|<Region>([a-z0-9-]+)</Region>")
_ENDPOINT = re.compile(r"https?://([A-Za-z0-9.:-]+)")


def remedy_of(text: str, scheme: str = "s3") -> str | None:
    """Return what an error of a store means and what to try; None if its text is not known."""
    keys = _KEYS[scheme]
    for words, remedy in _REMEDIES:
        if re.search(words, text):
            region, endpoint = _REGION.search(text), _ENDPOINT.search(text)
            return remedy.format(
                region=f" ({region[1] or region[2]})" if region else "",
                endpoint=f" ({endpoint[1]})" if endpoint else "",
                keys=keys,
                unset="" if keys.partition(" ")[0] in os.environ else " (not set here)",
                where="AWS_ENDPOINT_URL" if scheme == "s3" else "the endpoint",
            )
    return None


def is_open(text: str) -> bool:
    """Whether the outcome of a conditional put is open: only the object itself tells."""
    return bool(_OPEN.search(text)) and not _SETTLED.search(text)


def store_error(
    error: Exception,
    address: ObjectAddress,
    doing: str,
    kind: type[StorageError] = StorageError,
) -> StorageError:
    """Return an error of one line that names the address, what went wrong, and what to try."""
    text = str(error)
    reason = remedy_of(text, address.bucket.partition(":")[0])
    if reason is None and isinstance(error, FileNotFoundError):
        reason = "is missing; restore it, or use another version"
        return kind(f"{address}: {reason}")
    if reason is None:
        line = text.partition("Debug source")[0].partition("<?xml")[0].strip().partition("\n")[0]
        reason = f"{line.rstrip('.: ') or type(error).__name__}; try again, or check the store"
    return kind(f"{address}: {doing}: {reason}")


@contextmanager
def store_errors(
    address: ObjectAddress, doing: str, kind: type[StorageError] = StorageError
) -> Iterator[None]:
    """Turn an error of the client in the block into a `StorageError` about ``address``.

    The client's own error is not chained: its text repeats requests and answers.
    """
    # Imported where a store is used: a run on local disks need not load the client.
    from obstore.exceptions import BaseError

    try:
        yield
    except StorageError:
        raise
    except (BaseError, OSError, ValueError) as error:
        raise store_error(error, address, doing, kind) from None
