package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../.."

func read(t *testing.T, name string) string {
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Every rule is broken once: a row without a finding is a rule that checks nothing.
func TestWhatIsWrongIsFound(t *testing.T) {
	whole, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	compose := read(t, "docker-compose.yml")
	rows := []struct{ name, old, new, want string }{
		{"a variable of Grafana's files", "TIDEWATCH_ALERT_EMAIL:", "ALERT_EMAIL:", "grafana: TIDEWATCH_ALERT_EMAIL"},
		{"the token of Grafana's files", "export INFLUX_READ_TOKEN", "export INFLUX_TOKEN", "grafana: INFLUX_READ_TOKEN"},
		{"another bucket of sums", "INFLUX_LONG_BUCKET: ${INFLUX_LONG_BUCKET:-tidewatch_long}", "INFLUX_LONG_BUCKET: long", "bucket of sums"},
		{"a shipper of other topics", "config/stack-ship.toml:", "config/shippers/vector.toml:", "`scripts/stack topology` says ship"},
		{"an unknown key", "  pids_limit: 512", "  pids_limits: 512", "pids_limits"},
		{"an unknown key of a service", "    hostname: kafka", "    host_name: kafka", "host_name"},
		{"a wrong type", "  stop_grace_period: 60s\n  # Four", "  stop_grace_period: soon\n  # Four", "soon"},
		{"a service that is not there", "    topics: { condition: service_completed_successfully }", "    topic: { condition: service_completed_successfully }", "topic"},
		{"a volume that is not declared", "  shipper-data:\n  tokens:", "  tokens:", "shipper-data"},
		{"a secret that is not declared", "  page-token: { file: ./secrets/page-token }\n", "", "page-token"},
		{"a dependency of another profile", "topics: { condition: service_completed_successfully, required: false }", "topics: { condition: service_completed_successfully }", "profile external"},
		{"an image built twice", "    hostname: tidewatch-1", "    hostname: tidewatch-1\n    build: .", "is built by [tidewatch-0 tidewatch-1] at once"},
		{"an image that nobody builds", "    build: .\n", "", "nobody builds tidewatch:0.1.0"},
		{"libraries that cannot be loaded", "mode=1777,exec\"", "mode=1777\"", "kafka: cannot load zstd and snappy"},
		{"no version", "image: influxdb:2.7.12", "image: influxdb:latest", `image "influxdb:latest" has no version`},
		{"half a version", "image: influxdb:2.7.12", "image: influxdb:2", `image "influxdb:2" has no version`},
		{"root", `user: "10001:0"`, `user: "0:0"`, "grafana: runs as root"},
		{"nobody named", "    user: \"1000:1000\"\n    environment:\n      DOCKER", "    environment:\n      DOCKER", "influxdb: runs as root"},
		{"a file system that can be written", "  read_only: true", "  read_only: false", "read_only is missing"},
		{"a capability", "    hostname: kafka", "    hostname: kafka\n    cap_add: [NET_ADMIN]", "kafka: keeps capabilities"},
		{"new privileges", `["no-new-privileges:true"]`, `["no-new-privileges:false"]`, "no-new-privileges is missing"},
		{"no bound on memory", "    mem_limit: 64m\n", "", "nginx: mem_limit is missing"},
		{"less memory than floods take", "  mem_limit: 1g\n", "  mem_limit: 1000m\n", "mem_limit of tidewatch-1 is less than four times"},
		{"no restart", "  restart: unless-stopped\n", "", `restart is ""`},
		{"a port for everybody", "127.0.0.1:${NGINX_PORT:-8088}:8080", "${NGINX_PORT:-8088}:8080", "nginx: port 8088 is published"},
		{"a password in the environment", "GF_SECURITY_ADMIN_PASSWORD__FILE: /run/secrets/grafana-password", "GF_SECURITY_ADMIN_PASSWORD: admin", "GF_SECURITY_ADMIN_PASSWORD stands in the environment"},
		{"a mount that can be written", "nginx.conf:/etc/nginx/nginx.conf:ro", "nginx.conf:/etc/nginx/nginx.conf", "can be written from inside"},
		{"a mount that is not there", "./config/nginx/nginx.conf:", "./config/nginx/nginx.cfg:", "mounts config/nginx/nginx.cfg"},
		{"no health check", "    healthcheck:\n      test: [\"CMD\", \"wget\", \"-q\", \"-O\", \"/dev/null\", \"http://127.0.0.1:8080/healthz\"]\n      interval: 15s\n      timeout: 5s\n      retries: 3\n", "", "nginx: health check"},
		{"a variable without a line in .env.example", "${TRAFFIC_RATE:-200}", "${TRAFFIC_SPEED:-200}", "${TRAFFIC_SPEED} is not in .env.example"},
		{"another default than .env.example says", "${TRAFFIC_RATE:-200}", "${TRAFFIC_RATE:-300}", ".env.example changes it"},
		{"another bucket", "DOCKER_INFLUXDB_INIT_BUCKET: tidewatch", "DOCKER_INFLUXDB_INIT_BUCKET: logs", "bucket of InfluxDB's first start"},
		{"another bucket in Grafana", "INFLUX_BUCKET: ${INFLUX_BUCKET:-tidewatch}", "INFLUX_BUCKET: logs", "Grafana is not told"},
		{"another configuration than the stack's", "TIDEWATCH_CONFIG:-./config/stack.toml", "TIDEWATCH_CONFIG:-./config/kafka-influx.toml", "`scripts/stack topology` says config"},
		{"another number of workers", `-w, "2", -n, "2", -p, "1"`, `-w, "3", -n, "2", -p, "1"`, "different numbers of workers"},
		{"twice the same process", `-p, "1"`, `-p, "0"`, "tidewatch-1 is started with the wrong -p"},
		{"a process without a secret", "secrets: [page-token, cluster-secret]", "secrets: [page-token]", "has no secret cluster-secret"},
		{"a service more", "    profiles: [demo]\n    user: \"101:101\"", "    profiles: [demo, external]\n    user: \"101:101\"", "profile external starts"},
	}
	said := "config config/stack.toml\nship config/stack-ship.toml\nprocesses 2\nworkers 2\ntraffic shop\norg tidewatch\nbucket tidewatch\n" +
		"topic web-logs\ntopic web-errors\ntopic tidewatch-results\ntopic tidewatch-dead-letters\n"
	if findings := check(whole, compose, said); len(findings) > 0 {
		t.Fatalf("as it is: %s", strings.Join(findings, "\n"))
	}
	for _, row := range rows {
		if !strings.Contains(compose, row.old) {
			t.Errorf("%s: %q is not in the file", row.name, row.old)
			continue
		}
		findings := check(whole, strings.ReplaceAll(compose, row.old, row.new), said)
		if all := strings.Join(findings, "\n"); !strings.Contains(all, row.want) {
			t.Errorf("%s: %q is not in\n%s", row.name, row.want, all)
		}
	}
	for _, line := range strings.SplitAfter(strings.TrimSpace(said), "\n") {
		if findings := check(whole, compose, strings.Replace(said, line, "", 1)); len(findings) == 0 {
			t.Errorf("a stack without %q is not found", line)
		}
	}
}
