json_build_object('in_recovery', pg_is_in_recovery(), 'read_only', {read_only}, 'clock', extract(epoch FROM clock_timestamp())::float8
{parts})::text
