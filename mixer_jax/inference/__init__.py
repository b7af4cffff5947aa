"""What a finished run can do: classify, encode and decode, become an artefact, be studied."""
