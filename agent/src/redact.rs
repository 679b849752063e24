//! No secret leaves the host: command lines, URLs and log lines pass through here where they are read.
