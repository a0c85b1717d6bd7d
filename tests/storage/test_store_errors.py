"""What is wrong with a store is said in one line with a remedy, for outputs and inputs alike."""

import logging

import pytest

from gmm_dask.addresses import place_of
from gmm_dask.config import InputSection
from gmm_dask.errors import InputError, StorageError
from gmm_dask.storage.files.choice import check_output
from gmm_dask.storage.files.store_errors import remedy_of, store_error
from gmm_dask.storage.input.plan import plan_input
from gmm_dask.storage.models.registry import Registry
from tests.object_stores import KEY, SECRET, Proxy, credentials, environment
from tests.pipelines.services import free_port


def error(code, more=""):
    return f"<?xml version='1.0'?><Error><Code>{code}</Code>{more}</Error>"


# As AWS answers them; it gives a HEAD no body.
MALFORMED = (
    "<Message>The authorization header is malformed; the region 'us-east-1' is wrong; expecting "
    "'eu-west-3'</Message><Region>eu-west-3</Region>"
)
ANSWERS = {
    "secret": (403, error("SignatureDoesNotMatch", f"<AWSAccessKeyId>{KEY}</AWSAccessKeyId>"),
               "the secret key does not belong to the key id; check AWS_SECRET_ACCESS_KEY"),
    "key": (403, error("InvalidAccessKeyId"), "the store does not know the key id; check AWS_ACC"),
    "token": (400, error("ExpiredToken"), "the credentials have expired; get new ones"),
    "rights": (403, error("AccessDenied"), "access is denied; check AWS_ACCESS_KEY_ID and"),
    "clock": (403, error("RequestTimeTooSkewed"), "the clock of this machine is wrong"),
    "bucket": (404, error("NoSuchBucket"), "there is no such bucket; create it"),
    "region": (400, error("AuthorizationHeaderMalformed", MALFORMED),
               "the bucket is in another region (eu-west-3); set AWS_REGION to it"),
    "moved": (301, error("PermanentRedirect"), "the bucket is in another region; set AWS_REGION"),
}  # fmt: skip


@pytest.mark.parametrize("fault", ANSWERS)
def test_an_output_says_what_to_try(fault, caplog):
    status, body, remedy = ANSWERS[fault]
    caplog.set_level(logging.DEBUG)
    with Proxy("") as store, environment(**credentials(store.endpoint)):
        store.fate = lambda number, method, path: (status, body)
        for attempt in (
            lambda: check_output(place_of("s3://bucket/predictions")),
            lambda: Registry("s3://bucket/models", "stars").load(),
        ):
            with pytest.raises(StorageError) as caught:
                attempt()
            message = str(caught.value)
            assert message.startswith("s3://bucket/")
            assert remedy in message
            assert "\n" not in message
            assert SECRET not in message + caplog.text
            assert KEY not in message
            assert caught.value.__cause__ is None  # the client's text repeats the answer


@pytest.mark.parametrize("fault", ANSWERS)
def test_an_input_says_what_to_try(fault):
    status, body, remedy = ANSWERS[fault]
    with Proxy("") as store, environment(**credentials(store.endpoint)):
        store.fate = lambda number, method, path: (status, body if method != "HEAD" else "")
        with pytest.raises(InputError) as caught:
            plan_input(InputSection(path="s3://bucket/orders/*.parquet", columns=["a"]))
    message = str(caught.value)
    assert message.startswith("s3://bucket/orders/*.parquet: ")
    assert "\n" not in message
    assert SECRET not in message
    # HEAD comes first and has no body, so a wrong key and a lacking right look the same.
    heads = {403: "access is denied; check AWS_ACCESS_KEY_ID", 301: remedy, 404: "no bucket bucket"}
    assert heads.get(status, "") in message


@pytest.mark.slow
def test_a_store_that_does_not_answer_is_named():
    port = free_port()
    with environment(**credentials(f"http://127.0.0.1:{port}")):
        with pytest.raises(StorageError) as caught:
            check_output(place_of("s3://bucket/models"))
        expected = f"the store does not answer; check AWS_ENDPOINT_URL (127.0.0.1:{port}) and the"
        assert expected in str(caught.value)
        with pytest.raises(InputError, match="the store does not answer; check AWS_ENDPOINT_URL"):
            plan_input(InputSection(path="s3://bucket/orders", columns=["a"]))


def test_a_bucket_that_is_missing_is_named(bucket):
    with pytest.raises(StorageError, match="there is no such bucket; create it, correct the"):
        check_output(place_of("s3://no-such-bucket/models"))
    with pytest.raises(InputError, match="there is no bucket no-such-bucket; correct the address"):
        plan_input(InputSection(path="s3://no-such-bucket/orders", columns=["a"]))


def test_without_credentials_the_variables_are_named(bucket, moto):
    nothing: dict[str, str | None] = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}
    # The service that gives a machine of a cloud its credentials: here nobody is there.
    nobody = f"http://127.0.0.1:{free_port()}"
    with (
        environment(**nothing, AWS_METADATA_ENDPOINT=nobody),
        pytest.raises(StorageError) as caught,
    ):
        check_output(place_of(bucket))
    assert "there are no credentials in the environment; set AWS_ACCESS_KEY_ID" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("AWS_ENDPOINT_URL", "127.0.0.1:9000", "AWS_ENDPOINT_URL = 127.0.0.1:9000 in the environm"),
        ("AWS_ENDPOINT_URL_S3", "https://key:secret@host", "AWS_ENDPOINT_URL_S3 = https://host in"),
        (
            "AWS_SECRET_ACCESS_KEY",
            "a-key-from-a-file\n",
            "AWS_SECRET_ACCESS_KEY in the environment",
        ),
    ],
)
def test_a_variable_that_cannot_be_is_named(bucket, name, value, problem):
    """The client ends the process with a page of Rust on these."""
    with environment(**{name: value}), pytest.raises(StorageError) as caught:
        check_output(place_of(bucket))
    assert str(caught.value).startswith(problem)
    assert "secret" not in str(caught.value)


def test_a_text_that_nobody_knows_is_cut_to_a_line():
    error = OSError("a text of another kind\n\nDebug source: 5 lines")
    assert remedy_of(str(error)) is None
    message = str(store_error(error, place_of("gs://bucket/x"), "cannot be read"))
    assert message == (
        "gs://bucket/x: cannot be read: a text of another kind; try again, or check the store"
    )


@pytest.mark.parametrize(
    ("address", "variable"),
    [("gs://b/x", "GOOGLE_APPLICATION_CREDENTIALS"), ("az://b/x", "AZURE_STORAGE_ACCOUNT_NAME")],
)
def test_other_stores_have_variables_of_their_own(address, variable):
    denied = OSError("HTTP status 403 Forbidden")
    message = str(store_error(denied, place_of(address), "cannot be read"))
    assert f"access is denied; check {variable}" in message
    assert "AWS" not in message
