"""Every error Freshet raises on purpose. Each message names the thing, the value and the remedy."""


class FreshetError(Exception):
    """Base of all errors that a user of Freshet can cause or mend."""


class SettingsError(FreshetError):
    """A setting is unknown, of the wrong type or outside its range."""


class StreamError(FreshetError):
    """A stream cannot be read or written where it was asked to."""


class OffsetError(StreamError):
    """An offset is not (or no longer) in the stream, or the topic is not the one it belongs to."""


class VersionError(FreshetError):
    """A version is missing, incomplete, altered or of another format."""


class VersionExists(VersionError):
    """Another trainer committed this version number first (fencing)."""


class ModelMismatch(FreshetError):
    """A version was made by a model of another shape than the one asked for."""


class InputError(FreshetError):
    """A file or option given on the command line cannot be used."""
