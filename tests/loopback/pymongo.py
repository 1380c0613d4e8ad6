"""Uses a sandbox's replica set with PyMongo, an official client.

Takes the connection string as its one argument, prints a line for each thing that worked, and exits with 1 at the first
that did not.
"""

import os
import sys
import time

# This file has the name of the package it imports.
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [place for place in sys.path if os.path.abspath(place or ".") != HERE]

from pymongo import MongoClient, ReadPreference
from pymongo.errors import AutoReconnect, NotPrimaryError, OperationFailure
from pymongo.uri_parser import parse_uri


def passed(what):
    print(f"PASS {what}", flush=True)


def wait_for(what, condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"no {what} within {seconds} s")
        time.sleep(0.02)


def main(uri):
    client = MongoClient(uri, serverSelectionTimeoutMS=10_000, heartbeatFrequencyMS=10_000, retryWrites=True)
    try:
        members = len(parse_uri(uri)["nodelist"])
        assert client.admin.command("ping")["ok"] == 1
        wait_for("view of all members", lambda: len(client.nodes) == members)
        assert client.topology_description.topology_type_name == "ReplicaSetWithPrimary"
        passed(f"connects as to a replica set of {members}")

        things = client.test.things
        things.drop()
        things.insert_many([{"_id": n, "kind": n % 2} for n in range(250)])
        assert things.insert_one({"text": "ohne _id"}).inserted_id is not None
        passed("inserts")

        found = list(things.find({"kind": 1}).sort("_id", -1).batch_size(20))
        assert [thing["_id"] for thing in found] == list(range(249, 0, -2)), len(found)
        assert things.find_one({"_id": 7}) == {"_id": 7, "kind": 1}
        assert things.find_one({"_id": 1000}) is None
        cursor = things.find(batch_size=10)
        next(cursor)
        cursor.close()
        passed("finds with getMore and kills a cursor")

        secondary = client.get_database("test", read_preference=ReadPreference.SECONDARY)
        assert secondary.things.find_one({"_id": 1})["_id"] == 1
        passed("reads from a secondary")

        assert things.update_one({"_id": 1}, {"$set": {"x": 1}}).modified_count == 1
        assert things.delete_one({"_id": 2}).deleted_count == 1
        passed("updates and deletes")

        before = client.primary
        try:
            client.admin.command("replSetStepDown", 60)
        except (AutoReconnect, NotPrimaryError):
            pass  # A server may close the connection, or step down before it answers.
        started = time.monotonic()
        assert things.insert_one({"_id": "after"}).acknowledged
        took = time.monotonic() - started
        wait_for("other primary", lambda: client.primary not in (None, before))
        assert took < 5, took
        passed(f"follows a step-down, retryable insert after {took * 1000:.0f} ms")
        assert things.estimated_document_count() == 251
        passed("every write was carried out once")

        try:
            client.admin.command("no such command")
            raise AssertionError("an unknown command was taken")
        except OperationFailure as error:
            assert error.code == 59, error
        passed("refuses unknown commands")
    finally:
        client.close()
    passed("closes")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: pymongo.py URI")
    main(sys.argv[1])
