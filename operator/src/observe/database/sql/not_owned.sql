(SELECT c.relname FROM principal_table p JOIN pg_class c ON c.relnamespace = p.relnamespace AND c.relkind IN ('r', 'p')
  JOIN pg_roles r ON r.rolname = {worker} AND NOT pg_has_role(r.oid, c.relowner, 'USAGE')
  WHERE c.relname IN ('access_grant', 'audit_log', 'changelog', 'db', 'db_group', 'db_schema', 'email_verification_code',
    'export_archive', 'idp', 'instance', 'instance_change_history', 'issue', 'issue_comment', 'leader_lease', 'login_attempt',
    'oauth2_authorization_code', 'oauth2_client', 'oauth2_refresh_token', 'pipeline', 'plan', 'plan_check_run',
    'plan_webhook_delivery', 'policy', 'principal', 'project', 'project_webhook', 'query_history', 'release',
    'replica_heartbeat', 'review_config', 'review_run', 'revision', 'risk', 'role', 'sample_instance_setup',
    'saved_query', 'saved_query_star', 'server_config', 'service_account',
    'setting', 'sheet', 'sheet_blob', 'subscription', 'sync_history', 'task', 'task_run', 'task_run_log',
    'user_group', 'vcs_provider_user', 'web_refresh_token', 'workload_identity', 'worksheet',
    'worksheet_organizer', 'workspace')
  ORDER BY 1 LIMIT 1)
