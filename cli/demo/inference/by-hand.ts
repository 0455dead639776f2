import { podmanEnvironment, podman, userOf } from "../../../provider/resources/inference-container-unit.ts";

/**
 * Shell that brings another image, past the image policy, and runs a container of it: as somebody with a shell of the service's user could, with the podman and the storage of the
 * service. Returns once it runs.
 * @param service its name, and the storage of its images
 * @param folder where nothing is yet, on a file system that this user reads; nothing is left in it
 */
export function runAnotherImage(
  service: { readonly name: string; readonly storage: string },
  folder: string,
): string {
  const user = userOf(service.name);
  const environment = Object.entries(podmanEnvironment(service.name)).map(
    ([key, value]) => `-E ${key}=${value}`,
  );
  const asUser = (...options: readonly string[]): string =>
    ["systemd-run --quiet", `-p User=${user}`, ...environment, ...options, ...podman(service)].join(" ");
  return `set -e
mkdir -m 0755 ${folder}
echo '{"default":[{"type":"insecureAcceptAnything"}]}' >${folder}/policy.json
loader=$(ldd /bin/sleep | grep -o '/lib[^ ]*/ld-[^ ]*')
library=$(ldd /bin/sleep | grep -o '/[^ ]*/libc[.]so[^ ]*')
tar -chf ${folder}/other.tar -C / bin/sleep "\${loader#/}" "\${library#/}"
${asUser("--wait", "--pipe")} import --signature-policy ${folder}/policy.json ${folder}/other.tar localhost/other:1 >/dev/null 2>&1
rm -r ${folder}
${asUser("--unit=by-hand")} run --name by-hand --network none --cgroups disabled --user 0:0 localhost/other:1 /bin/sleep 3600
until pgrep -x -U ${user} sleep >/dev/null; do
  systemctl is-active -q by-hand || { journalctl -q -o cat -u by-hand >&2; exit 1; }
  sleep 0.2
done`;
}
