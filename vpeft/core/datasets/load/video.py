"""Whether a video can be read."""

from __future__ import annotations

from pathlib import Path

from vpeft.files import unreadable


def fault(path: str) -> str | None:
    """What is wrong with a video's container, which is read through and not decoded; None where nothing is."""
    import av

    if reason := unreadable(path):
        missing = "the archive was unpacked only in part, or data_root is another folder"
        return f"{reason}: {missing if reason == 'does not exist' else 'copy or unpack it again'}."
    try:
        with av.open(path, metadata_errors="ignore") as container:
            if not container.streams.video:
                return "has no picture: it holds sound or data alone."
            stream = container.streams.video[0]
            ends = [entry.pos + entry.size for entry in stream.index_entries]
            if max(ends, default=0) > Path(path).stat().st_size:
                return "is truncated: copy or unpack it again."
            if any(packet.is_corrupt for packet in container.demux(stream)):
                return "is truncated or broken: copy or unpack it again."
    except (OSError, ValueError, EOFError, IndexError, MemoryError, av.error.FFmpegError) as error:
        return f"is truncated or no video ({_line(error)}): copy or unpack it again."
    return None


def frame_count(path: str) -> int:
    """Frames of a video, counted in its packets where its header does not say."""
    import av

    with av.open(path, metadata_errors="ignore") as container:
        stream = container.streams.video[0]
        return stream.frames or sum(packet.size > 0 for packet in container.demux(stream))


def undecodable(path: str) -> str | None:
    """Why decord cannot decode a video to its end; None where it can."""
    import decord

    try:
        reader = decord.VideoReader(path, num_threads=1)
        for _ in range(len(reader)):
            reader.next()
    except Exception as error:  # decord raises RuntimeError, StopIteration, IndexError and others of its own
        return f"cannot be decoded ({_line(error)}): copy or unpack it again."
    return None


def _line(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text.rpartition("Check failed: ")[2][:120]
