"""Webhooks: entries of the log, sent to whom they concern as they come.

At least once, and in order for each receiver: what is not taken is tried again, and nothing overtakes it (docs/guides/webhooks.md).

    hooks       add, list, show, remove          filters     which entries a webhook gets
    delivering  deliver, run                     waiting     the entries that a webhook waits for
    passing     retry, skip                      backoff     when it is tried again
    signing_key what receivers know them by      sending     one attempt
    notifiers   who sends, by the URL's scheme
    deliverer   what the deliverer's environment says         addresses   where it may go
"""
