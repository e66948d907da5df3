package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/compose-spec/compose-go/v2/types"
)

// stack is what of config/stack.toml other files must agree with.
type stack struct {
	Memory string
	Source []struct {
		Brokers string
		Topics  []string
	}
	Sink struct {
		Influx      struct{ URL, Org, Bucket, Token string }
		Kafka       struct{ Brokers, Topic string }
		DeadLetters struct{ Brokers, Topic string } `toml:"dead_letters"`
	}
	Page    struct{ Listen, Token string }
	Cluster struct{ ID, Secret string }
}

// topology compares the compose file with the configuration it mounts and with `scripts/stack topology`: lines of a key and a
// value.
func topology(root string, project *types.Project, said string, find func(string, ...any)) {
	got := map[string][]string{}
	for line := range strings.Lines(said) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			got[key] = append(got[key], value)
		}
	}
	first, second := project.Services["tidewatch-0"], project.Services["tidewatch-1"]
	config := mounted(root, first, "/etc/tidewatch/tidewatch.toml")
	ships := []string{mounted(root, project.Services["shipper"], "/etc/tidewatch/ship.toml")}
	hosts := lines(filepath.Join(root, mounted(root, first, "/etc/tidewatch/hosts")))
	for _, name := range []string{"tidewatch-1", "topics", "bucket"} {
		if other := mounted(root, project.Services[name], "/etc/tidewatch/tidewatch.toml"); other != config {
			find("%s reads %q, tidewatch-0 %q", name, other, config)
		}
	}
	var parsed stack
	text, err := os.ReadFile(filepath.Join(root, config))
	if err == nil {
		_, err = toml.Decode(string(text), &parsed)
	}
	if err != nil {
		find("the configuration %q: %v", config, err)
		return
	}
	influx := project.Services["influxdb"]
	topics, brokers := []string{parsed.Sink.Kafka.Topic, parsed.Sink.DeadLetters.Topic}, []string{parsed.Sink.Kafka.Brokers, parsed.Sink.DeadLetters.Brokers}
	for _, source := range parsed.Source {
		topics, brokers = append(topics, source.Topics...), append(brokers, source.Brokers)
	}
	sort.Strings(topics)
	equal := func(what string, a, b any) {
		if a != b {
			find("%s: %q here, %q there", what, a, b)
		}
	}
	set := func(name string) string {
		if value := influx.Environment[name]; value != nil {
			return *value
		}
		return ""
	}
	equal("organisation of InfluxDB's first start and of "+config, set("DOCKER_INFLUXDB_INIT_ORG"), parsed.Sink.Influx.Org)
	equal("bucket of InfluxDB's first start and of "+config, set("DOCKER_INFLUXDB_INIT_BUCKET"), parsed.Sink.Influx.Bucket)
	if bucket := project.Services["grafana"].Environment["INFLUX_BUCKET"]; bucket == nil || *bucket != parsed.Sink.Influx.Bucket {
		find("Grafana is not told the bucket %q of %s", parsed.Sink.Influx.Bucket, config)
	}
	if long := project.Services["grafana"].Environment["INFLUX_LONG_BUCKET"]; long == nil || *long != parsed.Sink.Influx.Bucket+"_long" {
		find("Grafana is not told the bucket of sums, %s_long", parsed.Sink.Influx.Bucket)
	}
	provisioned(root, project.Services["grafana"], find)
	equal("address of InfluxDB in "+config, parsed.Sink.Influx.URL, "http://influxdb:8086")
	for _, broker := range brokers {
		equal("broker in "+config, broker, "kafka:9092")
	}
	for name, token := range map[string]string{"page-token": parsed.Page.Token, "cluster-secret": parsed.Cluster.Secret} {
		equal("place of the secret "+name+" in "+config, token, "file:/run/secrets/"+name)
		for _, process := range []types.ServiceConfig{first, second} {
			if !slices.ContainsFunc(process.Secrets, func(s types.ServiceSecretConfig) bool { return s.Source == name }) {
				find("%s has no secret %s", process.Name, name)
			}
		}
	}
	equal("place of the token in "+config, parsed.Sink.Influx.Token, "file:/run/tokens/influx-token")
	for index, process := range []types.ServiceConfig{first, second} {
		if len(hosts) != 2 || hosts[index] != process.Name+":2101" {
			find("line %d of the hosts file is not %s:2101", index+1, process.Name)
		}
		// docs/OPERATING.md measured it, with hosts that are not named.
		var memory types.UnitBytes
		if err := memory.DecodeMapstructure(parsed.Memory); err != nil || memory == 0 || process.MemLimit < 4*memory {
			find("mem_limit of %s is less than four times the memory = %q of %s", process.Name, parsed.Memory, config)
		}
		if !slices.Equal(option(process, "-p"), []string{string(rune('0' + index))}) || !slices.Equal(option(process, "-n"), []string{"2"}) {
			find("%s is started with the wrong -p or -n: %v", process.Name, process.Command)
		}
	}
	var shipped []string
	for _, ship := range ships {
		shipped = append(shipped, lines(filepath.Join(root, ship))...)
	}
	for _, source := range parsed.Source {
		for _, topic := range source.Topics {
			if !slices.ContainsFunc(shipped, func(line string) bool { return line == `topic = "`+topic+`"` }) {
				find("no shipper writes to the topic %q, which %s reads", topic, config)
			}
		}
	}
	workers := option(first, "-w")
	if !slices.Equal(workers, option(second, "-w")) {
		find("the processes have different numbers of workers")
	}
	want := map[string][]string{
		"config": {config}, "ship": ships, "topic": topics, "org": {parsed.Sink.Influx.Org}, "bucket": {parsed.Sink.Influx.Bucket},
		"processes": {"2"}, "workers": workers, "traffic": {option(project.Services["generator"], "--name")[0]},
	}
	for key, values := range want {
		sort.Strings(got[key])
		if !slices.Equal(values, got[key]) {
			find("`scripts/stack topology` says %s %v, the compose file %v", key, got[key], values)
		}
	}
	for key := range got {
		if _, ok := want[key]; !ok {
			find("`scripts/stack topology` says %s, which is compared with nothing", key)
		}
	}
}

// provisioned finds variables of Grafana's provisioning files that the service does not set.
func provisioned(root string, grafana types.ServiceConfig, find func(string, ...any)) {
	files, _ := filepath.Glob(filepath.Join(root, "grafana", "provisioning", "*", "*.yaml"))
	if len(files) == 0 {
		find("grafana/provisioning holds no files")
	}
	for _, file := range files {
		text, _ := os.ReadFile(file)
		for _, match := range regexp.MustCompile(`\$\{?([A-Z][A-Z_]+)`).FindAllStringSubmatch(string(text), -1) {
			_, set := grafana.Environment[match[1]]
			if !set && !strings.Contains(strings.Join(grafana.Entrypoint, " "), "export "+match[1]) {
				find("grafana: %s, which %s needs, is not set", match[1], filepath.Base(file))
			}
		}
	}
}

// mounted is the path in the tree of what a service sees at `target`.
func mounted(root string, service types.ServiceConfig, target string) string {
	for _, volume := range service.Volumes {
		if volume.Target == target {
			relative, _ := filepath.Rel(root, volume.Source)
			return relative
		}
	}
	return ""
}

// option is the value after a flag of a service's command.
func option(service types.ServiceConfig, flag string) []string {
	if at := slices.Index(service.Command, flag); at >= 0 && at+1 < len(service.Command) {
		return []string{service.Command[at+1]}
	}
	return []string{""}
}

// lines of a file that are neither empty nor a comment.
func lines(path string) []string {
	text, _ := os.ReadFile(path)
	var all []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			all = append(all, line)
		}
	}
	return all
}
