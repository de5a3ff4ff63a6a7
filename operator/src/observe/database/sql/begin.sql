SET TRANSACTION READ ONLY; SET LOCAL statement_timeout = '{timeout}'; {path}
