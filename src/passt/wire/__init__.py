"""Bytes to values and back for control traffic; no I/O.

All files here, and `passt.host.rtnetlink`, use one dialect:

* A header, message or option is a `Value`: whatever exists is valid, as its constructor raises `ValueError`
  (`require_...`) for what cannot be written.
* `X.parse(data, ...)` reads one from bytes by a `Reader`, `X.build(...)` writes it, and
  `X.parse(x.build()) == x`. Further arguments are what the layer below knows, such as the addresses in a
  checksum. `parse` raises `WireError` (`expect_...`; `HostError` in rtnetlink) for everything else than an X.
* Messages have a `kind`, ND classes as KIND. Options have a CODE; their `parse` and `build` are about the
  data behind code and length. An `..._options` file has the codes (`OptionCode`), one registry of classes by
  code (`OPTIONS`), `OtherOption` for all other codes, `parse_options` and `build_options`.
* `parse_message(carried, packet)` is the door of a protocol whose RFC has rules for the IP packet around a
  message: it reads the message and holds both to the rules.
* Where there is no class, a function has the verb and its object: `build_name`, `build_link_query`, and
  `pull_name` for what is read from the middle of a `Reader`.
"""
