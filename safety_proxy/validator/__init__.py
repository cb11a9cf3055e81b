"""The door for pict-rs' `external_validation`."""
