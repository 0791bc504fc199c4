"""Server of a trained model: OpenAI's chat completions with images, video and audio.

A request passes the files in this order:

1. `http_server` listens, and `app` has the endpoints. `request_gate` checks host, key (`api_keys`), number of
   requests and size of the body before anything is parsed; all limits are in `limits`.
2. `chat_endpoint` parses the body (`chat_request`), and `conversation` turns its messages into turns and
   files. `media_fetcher` fetches the files that are named by URL, from hosts that `media_hosts` lists and
   addresses that `public_addresses` accepts. Both write them in `file_threads`. `media_decoder` sends all
   files to a process that has limits on time and memory, in which `media_limits` checks their headers
   and packets and decodes them.
3. `served_model` encodes the conversation and submits it to its engine. `engine` defines what an engine is.
   `slot_engine` is one: requests join and leave its batch between two steps, with keys and values in
   `slot_cache`, tokens chosen by `token_choice`, and text by `reply_text`.
4. `pending_reply` brings the events of the engine to the event loop, and `completions` writes them as
   JSON or as server-sent events. Errors have the form of `request_errors`.

`model_sources` finds, verifies and loads a model. `current_model` holds the one that answers, and
`alias_follower` replaces it when its alias moves. `metrics` counts for Prometheus. `page`
serves a page for people from `page_files`.
"""
