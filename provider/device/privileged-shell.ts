import type { Connection } from "../connection.ts";
import { DeviceError } from "./errors.ts";
import type { ExecResult } from "./transport.ts";

/*
 * How a script gets to run as root. What stands on a command line shows in `ps`, sudo's log and the audit log, so the command is the same always
 * and tells nothing; it has to survive any login shell (sh, fish, zsh, csh), so it has no backslash, `!` or nested quotes. All else comes on
 * standard input: first one line that the shell evaluates, then the script, to the end.
 */

/** The remote command. Its one argument is SSH_CONNECTION, since sudo clears the environment; `$0` is what `ps` shows. */
export function remoteCommand(connection: Connection): string {
  const shell = `/bin/sh -c 'read -r line && eval "$line"' edgeseal "$SSH_CONNECTION"`;
  // sudo's own messages are read by `requireStarted`, so they have to be in English.
  return connection.user === "root" ? `exec ${shell}` : `exec /usr/bin/env LC_ALL=C sudo -n -- ${shell}`;
}

/** The seconds after TERM at which KILL follows. */
export const killAfterSeconds = 5;

/** What a script that is followed by content has for a deadline: none, since it ends itself when it hears nothing. */
export const noDeadline = 0;

/**
 * What goes on standard input. The first line says that we got here, then puts a clean environment and a deadline around the shell that reads
 * the rest. Its process group ends at the deadline even when we are not there any more to say so.
 * @param contentFollows The script is read by its length, and leaves on standard input what comes after it.
 */
export function standardInput(
  script: string,
  nonce: string,
  timeoutSeconds: number,
  contentFollows = false,
): string {
  const environment = `PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C HOME=/root SSH_CONNECTION="$1"`;
  // head(1) asks for no more bytes than it is to print.
  const read = contentFollows ? `head -c ${Buffer.byteLength(script)}` : "cat";
  const bounded = `timeout -k ${killAfterSeconds} ${timeoutSeconds} /bin/sh -c 'eval "$(${read})"'`;
  return `printf '\\n@%s started\\n' ${nonce}; exec /usr/bin/env -i ${environment} ${bounded}\n${script}`;
}

/** Text of a device, fit for a terminal and a log: one line, no control characters, not long. */
export function printable(text: string): string {
  const line = text
    .replace(/\s+/g, " ")
    .replace(/[\u0000-\u001f\u007f-\u009f]/g, "")
    .trim();
  return line.length > 300 ? `${line.slice(0, 300)}...` : line;
}

const sudoLine = (user: string): string => `${user} ALL=(root) NOPASSWD: /bin/sh`;

const refusals: readonly {
  readonly says: RegExp;
  readonly message: string;
  readonly hint: (user: string) => string;
}[] = [
  {
    says: /password is required|a terminal is required|no askpass program|must have a tty/i,
    message: "sudo asks for a password",
    hint: (user) =>
      `allow it without: put '${sudoLine(user)}' into /etc/sudoers.d/edgeseal (mode 0440, checked with visudo -c)`,
  },
  {
    says: /not allowed to (execute|run sudo)|not in the sudoers|may not run sudo|unknown user/i,
    message: "sudo does not allow this user to run /bin/sh as root",
    hint: (user) =>
      `put '${sudoLine(user)}' into /etc/sudoers.d/edgeseal (mode 0440, checked with visudo -c)`,
  },
  {
    says: /sudo.*(not found|no such file)|unknown command.*sudo/i,
    message: "the device has no sudo",
    hint: () => "install it, or log in as root",
  },
  {
    says: /account is currently not available|nologin/i,
    message: "the login user may not run commands",
    hint: () => "give the user a login shell such as /bin/sh",
  },
];

/**
 * Makes sure that the exec got as far as the shell as root; before that, anything may have refused it.
 * @throws DeviceError `denied`.
 */
export function requireStarted(connection: Connection, result: ExecResult, nonce: string): void {
  if (result.stdout.includes(`\n@${nonce} started\n`)) return;
  const said = `${result.stderr}\n${result.stdout}`;
  const refusal = refusals.find(({ says }) => says.test(said));
  throw new DeviceError(
    "denied",
    connection.node,
    refusal?.message ??
      `no root shell could be started as '${connection.user}' (exit status ${result.code ?? "none"})`,
    {
      originalMessage: printable(said) || "no output",
      hint:
        refusal?.hint(connection.user) ??
        "check that this command works for the user: `ssh NODE sudo -n /bin/sh -c id`, and that no ForceCommand or login script gets in its way",
    },
  );
}
