"""The interfaces of other libraries, one module each, named after the library; none of them imports it."""
