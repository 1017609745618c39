"""Bytes to values and back for control traffic; no I/O.

All files here, and `passt.host.rtnetlink`, use one dialect:

* A header, message or option is a `Value`. Its constructor raises `ValueError` (see `require_bits`) for
  a value that cannot be written, so any value that exists is valid.
* Class method parse reads one from bytes with a `Reader`; method build writes it; parsing what build wrote
  gives an equal value. Further arguments come from the layer below, such as the addresses for a checksum.
  Malformed data raises `WireError` (see `expect_len`), in rtnetlink `HostError`.
* Messages have a kind, classes of ND messages as constant KIND. Classes of options have a CODE; their parse
  and build handle the data behind code and length. Each file of options has the codes (`OptionCode`), one
  registry of classes by code (`OPTIONS`), `OtherOption` for all other codes, `parse_options` and
  `build_options`.
* `parse_message` is the door of a protocol whose RFC has rules for the IP packet around a message. It takes
  the carried data and the packet, reads the message and checks both.
* Things without a class have functions of the same verbs, such as `build_name` and
  `messages.build_link_query`; a function that reads from the middle of a `Reader` is called `pull_name`, as
  the methods of `Reader` are.
"""
