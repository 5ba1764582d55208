"""A Hub on the loopback interface, for the real `huggingface_hub` client: repositories in memory, LFS uploads and all.

`python fake_hub.py PORT` serves until it is ended. The client reads HF_ENDPOINT when it is imported, so what uses this
runs in a process of its own, with `environment(url, home)`.

Answers are as strict as the tests need them: a token for whatever is private, LFS objects that must have been uploaded
with the size and hash they claim, no commit without a preupload of the same paths, and `/api/validate-yaml` with the
checks that are made of a card's metadata.
"""

import base64
import hashlib
import json
import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

import yaml

TOKEN = "hf_loopback"
LFS_SUFFIXES = (".safetensors", ".mp4", ".png", ".bin")
LFS_SIZE = 10 * 2**20
# From the Hub's task list (huggingface.js, packages/tasks), those that take or give text, sound or pictures.
PIPELINE_TAGS = {
    "any-to-any", "audio-classification", "audio-text-to-text", "automatic-speech-recognition",
    "feature-extraction", "image-classification", "image-text-to-text", "image-to-text", "question-answering",
    "text-classification", "text-generation", "video-classification", "video-text-to-text", "visual-question-answering",
}  # fmt: skip
LICENSES = {
    "apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "cc0-1.0", "llama2", "llama3", "openrail", "other", "unknown",
}  # fmt: skip
RELATIONS = {"adapter", "finetune", "merge", "quantized"}
SPACE_SDKS = {"gradio", "docker", "static"}


def problems_of(content: str, kind: str) -> list[str]:
    """What is wrong with the metadata of a card; an empty list if nothing is."""
    found = re.match(r"^\s*---\r?\n(.*?)\r?\n---\s*(\r?\n|$)", content, flags=re.DOTALL)
    if not found:
        return ["the card has no YAML head"]
    try:
        head = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        return [f"the YAML head cannot be read: {error}"]
    if not isinstance(head, dict):
        return ["the YAML head is no mapping"]
    problems = []

    def expect(condition, sentence):
        if not condition:
            problems.append(sentence)

    def ids(value):
        return [value] if isinstance(value, str) else value

    if "license" in head:
        expect(all(name in LICENSES for name in ids(head["license"])), f"license {head['license']!r} is not known")
        expect(head["license"] != "other" or "license_name" in head, "license 'other' needs license_name")
    if "license_name" in head:
        expect(re.fullmatch(r"[a-z0-9-.]+", str(head["license_name"])), "license_name must be lower case, no spaces")
    if "tags" in head:
        expect(isinstance(head["tags"], list) and all(isinstance(t, str) for t in head["tags"]), "tags are no strings")
    if kind == "model":
        tag = head.get("pipeline_tag")
        expect(tag is None or tag in PIPELINE_TAGS, f"pipeline_tag {tag!r} is not known")
        relation = head.get("base_model_relation")
        expect(relation is None or relation in RELATIONS, f"base_model_relation {relation!r} is not known")
        for base in ids(head.get("base_model") or []):
            expect(re.fullmatch(r"[\w.-]+/[\w.-]+", base), f"base_model {base!r} is no repository id")
        widget = head.get("widget", [])
        expect(isinstance(widget, list) and all(isinstance(w, dict) for w in widget), "widget is no list of objects")
        if "model-index" in head:
            from huggingface_hub.repocard_data import model_index_to_eval_results

            try:
                for entry in head["model-index"]:
                    for result in entry["results"]:
                        names = (result["task"]["type"], result["dataset"]["type"], result["dataset"]["name"])
                        assert all(isinstance(name, str) for name in names)
                        assert all(isinstance(m["value"], (int, float)) for m in result["metrics"])
                model_index_to_eval_results(head["model-index"])
            except (KeyError, TypeError, AssertionError) as error:
                problems.append(f"model-index is malformed: {error!r}")
    if kind == "space":
        expect(head.get("sdk") in SPACE_SDKS, f"sdk {head.get('sdk')!r} is not known")
        expect(head.get("title"), "a Space needs a title")
        expect(isinstance(head.get("app_file"), str), "app_file is missing")
        expect(len(str(head.get("short_description", ""))) <= 60, "short_description has more than 60 characters")
    return problems


class Store:
    """Repositories and LFS objects, and a log of the requests."""

    def __init__(self):
        # Branch -> commits: hash, files, message.
        self.branches: dict[tuple[str, str], dict[str, list[tuple[str, dict[str, bytes], str]]]] = {}
        self.private: dict[tuple[str, str], bool] = {}
        self.objects: dict[str, bytes] = {}
        self.announced: dict[tuple[str, str], set[str]] = {}
        self.lfs_paths: dict[tuple[str, str], set[str]] = {}
        self.log: list[tuple[str, str]] = []

    def head(self, key, revision="main"):
        """The commit of a branch or hash; StopIteration if there is none."""
        branches = self.branches[key]
        if revision in branches:
            return branches[revision][-1]
        return next(commit for commits in branches.values() for commit in commits if commit[0] == revision)

    def commit(self, key, files, message, branch="main"):
        commits = self.branches.setdefault(key, {}).setdefault(branch, [])
        digest = hashlib.sha1(repr((key, branch, len(commits), message)).encode())
        for path in sorted(files):
            digest.update(path.encode() + hashlib.sha1(files[path]).digest())
        commits.append((digest.hexdigest(), files, message))
        return digest.hexdigest()


class RefusedError(Exception):
    def __init__(self, status, code, message):
        super().__init__(message)
        self.status, self.code = status, code


def requests_of(store: Store):
    class Requests(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def send(self, status, body=b"", headers=None, kind="application/json"):
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def handle_one(self, answer):
            path = unquote(urlparse(self.path).path)
            body = self.body() if self.command in ("POST", "PUT") else b""
            store.log.append((self.command, path))
            try:
                answer(path, body)
            except RefusedError as error:
                headers = {"X-Error-Code": error.code, "X-Error-Message": str(error)}
                self.send(error.status, {"error": str(error)}, headers)

        def known(self):
            return self.headers.get("Authorization") == f"Bearer {TOKEN}"

        def repository(self, kind, name, write=False):
            key = (kind, name)
            # To a stranger a private repository does not exist.
            if key not in store.branches or (store.private[key] and not self.known()):
                raise RefusedError(404 if self.known() else 401, "RepoNotFound", "Repository not found")
            if write and not self.known():
                raise RefusedError(401, "Unauthorized", "a token is needed")
            return key

        def revision(self, key, name):
            try:
                return store.head(key, name)
            except StopIteration:
                raise RefusedError(404, "RevisionNotFound", f"no revision {name}") from None

        def url(self, path):
            return f"http://{self.headers['Host']}{path}"

        def do_POST(self):
            self.handle_one(self.post)

        def do_PUT(self):
            self.handle_one(self.put)

        def do_GET(self):
            self.handle_one(self.get)

        def do_HEAD(self):
            self.handle_one(self.get)

        def post(self, path, body):
            if path == "/api/validate-yaml":
                asked = json.loads(body)
                problems = problems_of(asked["content"], asked["repoType"])
                if self.headers.get("Accept") == "text/plain":
                    return self.send(400 if problems else 200, "; ".join(problems).encode(), kind="text/plain")
                told = {"errors": [{"message": problem} for problem in problems], "warnings": []}
                return self.send(400 if problems else 200, told)
            if not self.known():
                raise RefusedError(401, "Unauthorized", "a token is needed")
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = asked["name"] if "/" in asked["name"] else f"{asked.get('organization') or 'me'}/{asked['name']}"
                key = (asked.get("type") or "model", name)
                if key in store.branches:
                    return self.send(409, {"error": "You already created this repo", "url": self.url(f"/{name}")})
                store.private[key] = asked.get("visibility") == "private" or bool(asked.get("private"))
                store.commit(key, {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
                return self.send(200, {"url": self.url(f"/{name}"), "name": name, "id": name})
            batch = re.fullmatch(r"/(?:(dataset|space)s/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path)
            if batch:
                self.repository(batch[1] or "model", batch[2], write=True)
                objects = []
                for item in json.loads(body)["objects"]:
                    if item["oid"] not in store.objects:
                        item["actions"] = {
                            "upload": {"href": self.url(f"/lfs/{item['oid']}")},
                            "verify": {"href": self.url("/lfs/verify")},
                        }
                    objects.append(item)
                return self.send(200, {"transfer": "basic", "objects": objects})
            if path == "/lfs/verify":
                asked = json.loads(body)
                if len(store.objects.get(asked["oid"], b"")) != asked["size"]:
                    raise RefusedError(422, "LfsMissing", f"no object {asked['oid']} of that size")
                return self.send(200, {})
            found = re.fullmatch(r"/api/(model|dataset|space)s/([^/]+/[^/]+)/branch/(.+)", path)
            if found:
                key = self.repository(found[1], found[2], write=True)
                if found[3] in store.branches[key]:
                    return self.send(409, {"error": "Reference already exists"})
                store.branches[key][found[3]] = list(store.branches[key]["main"])
                return self.send(200, {})
            found = re.fullmatch(r"/api/(model|dataset|space)s/([^/]+/[^/]+)/(preupload|commit)/(.+)", path)
            if not found:
                raise RefusedError(404, "EntryNotFound", f"no route {path}")
            key = self.repository(found[1], found[2], write=True)
            if found[3] == "preupload":
                return self.send(200, {"files": [self.announce(key, file) for file in json.loads(body)["files"]]})
            files, message = dict(self.revision(key, found[4])[1]), ""
            for line in body.splitlines():
                item = json.loads(line)
                value = item["value"]
                if item["key"] == "header":
                    message = value["summary"]
                    continue
                if item["key"] == "deletedFile":
                    files.pop(value["path"], None)
                    continue
                if value["path"] not in store.announced.get(key, ()):
                    raise RefusedError(400, "BadRequest", f"{value['path']} was not announced by a preupload")
                if item["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif item["key"] == "lfsFile":
                    if len(store.objects.get(value["oid"], b"")) != value["size"]:
                        raise RefusedError(
                            400, "LfsMissing", f"{value['path']} points to an object that was not uploaded"
                        )
                    files[value["path"]] = store.objects[value["oid"]]
                    store.lfs_paths.setdefault(key, set()).add(value["path"])
                else:
                    raise RefusedError(400, "BadRequest", f"operation {item['key']}")
            commit = store.commit(key, files, message, found[4])
            address = self.url(f"/{key[1]}/commit/{commit}")
            return self.send(200, {"success": True, "commitOid": commit, "commitUrl": address, "hookOutput": ""})

        def announce(self, key, file):
            path = file["path"]
            store.announced.setdefault(key, set()).add(path)
            mode = "lfs" if path.endswith(LFS_SUFFIXES) or file["size"] > LFS_SIZE else "regular"
            known = store.head(key)[1].get(path)
            oid = None if known is None else hashlib.sha1(b"blob %d\0" % len(known) + known).hexdigest()
            return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}

        def put(self, path, body):
            oid = path.removeprefix("/lfs/")
            if hashlib.sha256(body).hexdigest() != oid:
                raise RefusedError(400, "LfsCorrupt", "the bytes do not have the hash they claim")
            store.objects[oid] = body
            self.send(200, {})

        def get(self, path, body):
            if path == "/log":
                return self.send(200, store.log)
            if path == "/api/whoami-v2":
                if not self.known():
                    raise RefusedError(401, "Unauthorized", "a token is needed")
                return self.send(200, {"type": "user", "name": "me", "orgs": [], "auth": {"type": "access_token"}})
            found = re.fullmatch(
                r"/api/(model|dataset|space)s/([^/]+/[^/]+)(?:/(revision|tree|commits)/([^/]+)(?:/(.*))?)?", path
            )
            if found:
                key = self.repository(found[1], found[2])
                commit, files, _ = self.revision(key, found[4] or "main")
                if found[3] == "tree":
                    inside = f"{found[5]}/" if found[5] else ""
                    listed = [
                        {"type": "file", "oid": hashlib.sha1(data).hexdigest(), "size": len(data), "path": name}
                        for name, data in sorted(files.items())
                        if name.startswith(inside)
                    ]
                    return self.send(200, listed)
                if found[3] == "commits":
                    return self.send(
                        200,
                        [
                            {
                                "id": sha,
                                "title": title,
                                "message": "",
                                "authors": [],
                                "date": "2026-01-01T00:00:00.000Z",
                            }
                            for sha, _, title in reversed(store.branches[key][found[4]])
                        ],
                    )
                told = {"_id": "0", "id": key[1], "modelId": key[1], "sha": commit, "private": store.private[key]}
                told |= {"tags": [], "downloads": 0, "likes": 0, "siblings": [{"rfilename": name} for name in files]}
                return self.send(200, {**told, **self.card(files)})
            found = re.fullmatch(r"/(?:(dataset|space)s/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            if not found:
                raise RefusedError(404, "EntryNotFound", f"no route {path}")
            key = self.repository(found[1] or "model", found[2])
            commit, files, _ = self.revision(key, found[3])
            headers = {"X-Repo-Commit": commit}
            if found[4] not in files:
                told = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
                return self.send(404, {"error": "Entry not found"}, {**headers, **told})
            data = files[found[4]]
            headers["ETag"] = f'"{hashlib.sha1(data).hexdigest()}"'
            if found[4] in store.lfs_paths.get(key, ()):
                headers |= {"X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Linked-Size": str(len(data))}
            return self.send(200, data, headers, "application/octet-stream")

        def card(self, files):
            found = re.match(rb"^---\n(.*?)\n---", files.get("README.md", b""), flags=re.DOTALL)
            head = yaml.safe_load(found[1]) if found else {}
            return {
                "cardData": head,
                "pipeline_tag": head.get("pipeline_tag"),
                "library_name": head.get("library_name"),
            }

    return Requests


def start(port: int = 0) -> tuple[ThreadingHTTPServer, Store, str]:
    """A server that runs in a thread, its store and its address."""
    store = Store()
    server = ThreadingHTTPServer(("127.0.0.1", port), requests_of(store))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, store, f"http://127.0.0.1:{server.server_port}"


def environment(url: str, home, **more) -> dict[str, str]:
    """Environment of a process whose Hub is `url` and whose caches lie under `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_") and name != "PYTHONPATH"}
    return {
        **kept,
        "HF_ENDPOINT": url,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        **more,
    }


if __name__ == "__main__":
    running = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), requests_of(Store()))
    print(f"http://127.0.0.1:{running.server_port}", flush=True)
    running.serve_forever()
