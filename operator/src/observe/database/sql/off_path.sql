, 'off_path', (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_roles r ON r.rolname = {worker}
  WHERE c.relname = 'principal' AND c.relkind IN ('r', 'p', 'v', 'f') AND NOT pg_is_other_temp_schema(n.oid)
  AND (pg_has_role(r.oid, c.relowner, 'USAGE')
    OR has_table_privilege(r.oid, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
    OR has_any_column_privilege(r.oid, c.oid, 'SELECT, INSERT, UPDATE, REFERENCES'))
  ORDER BY 1 LIMIT 1)
