SET TRANSACTION READ ONLY; SET LOCAL statement_timeout = '{timeout}'; SET LOCAL row_security = off; {path}
