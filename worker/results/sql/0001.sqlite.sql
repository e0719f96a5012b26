-- One row for the outcome of each request. schemas/results_table.py has the same definition.
CREATE TABLE tailrace_results (
  request_id text NOT NULL PRIMARY KEY,
  attempt integer NOT NULL,
  failures integer NOT NULL,
  crashes integer NOT NULL,
  drains integer NOT NULL,
  tenant text,
  priority text NOT NULL,
  model text,
  api text NOT NULL,
  status text NOT NULL,
  finish_reason text,
  submitted_at timestamp NOT NULL,
  started_at timestamp,
  first_delta_at timestamp,
  finished_at timestamp NOT NULL,
  deadline_at timestamp NOT NULL,
  usage json,
  tool_calls json NOT NULL,
  reasoning text,
  content text,
  refusal text,
  error json,
  metadata json,
  retry_of text,
  rest json NOT NULL
);
CREATE INDEX tailrace_results_finished ON tailrace_results (finished_at);
CREATE INDEX tailrace_results_tenant_finished ON tailrace_results (tenant, finished_at);
CREATE INDEX tailrace_results_status_finished ON tailrace_results (status, finished_at);
