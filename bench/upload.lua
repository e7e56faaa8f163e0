-- 10 MiB to the upload sink; made once, sent again and again.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/octet-stream"
wrk.body = string.rep("x", 10 * 1024 * 1024)
