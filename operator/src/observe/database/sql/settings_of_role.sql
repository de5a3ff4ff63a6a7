(SELECT hashtextextended(string_agg(concat_ws(' ', s.setrole, s.setdatabase, s.setconfig), ' ' ORDER BY s.setrole, s.setdatabase) COLLATE "C", 0)
  FROM pg_db_role_setting s
  WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
  AND s.setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = session_user)))
