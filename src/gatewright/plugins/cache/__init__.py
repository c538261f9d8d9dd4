"""`cache`: a shared HTTP cache by RFC 9111, with stale-while-revalidate, stale-if-error (5861) and Cache-Status (9211).

grammar      what fields say: Cache-Control, dates, Age, entity tags, ranges
entry        one stored answer: its age, how long it is fresh, to which requests it answers
policy       what may be stored and for whom, what a 304 changes, what an unsafe request makes invalid
answers      an entry to the answer that a client gets: 200, 206, 304, 416
hit          what is given again without asking the plugin
store        entries within a bound of bytes; purge by URL, prefix and tag; who is fetching what
redis_store  the same entries in Redis, for several gateways
plugin       the decisions in the order of a request's way
"""
