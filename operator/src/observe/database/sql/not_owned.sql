(SELECT name FROM (SELECT 'principal' AS name, relowner FROM principal
  UNION ALL SELECT e.name, c.relowner FROM expected e JOIN pg_class c ON c.oid = to_regclass(e.name)) o
  JOIN pg_roles r ON r.rolname = {worker} AND NOT pg_has_role(r.oid, relowner, 'USAGE') LIMIT 1)
