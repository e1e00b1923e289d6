"""Reads the event files that TensorBoard shows."""

import struct


def events(run):
    """The events of a run's TensorBoard files."""
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted((run / "tensorboard").glob("events*")):
        data, at = file.read_bytes(), 0
        while at < len(data):  # length, its checksum, the event, its checksum
            (size,) = struct.unpack("<Q", data[at : at + 8])
            yield Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size


def histograms(run):
    """By (tag, step): what a histogram says."""
    return {
        (value.tag, event.step): value.histo
        for event in events(run)
        for value in event.summary.value
        if value.HasField("histo")
    }


def scalars(run):
    """Tags of curves."""
    return {
        value.tag
        for event in events(run)
        for value in event.summary.value
        if value.HasField("simple_value")
    }
