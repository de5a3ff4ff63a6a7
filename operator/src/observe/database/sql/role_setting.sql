(SELECT substr(c, length('{name}=') + 1) FROM pg_db_role_setting s, unnest(s.setconfig) c
  WHERE left(c, length('{name}=')) = '{name}='
  AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
  AND s.setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = {role}))
  ORDER BY s.setrole = 0, s.setdatabase = 0 LIMIT 1)
