//! Tests of the whole journal, on real files.
