"""What an admin asks and decides, by the commands: the admin's routes over the running server."""

import asyncio
from contextlib import ExitStack

from safety_proxy.admin.explain import ExplainAdmin, Explaining
from safety_proxy.admin.lists import ListsAdmin
from safety_proxy.admin.policy import Active, PolicyAdmin
from safety_proxy.deadline import Deadline
from safety_proxy.errors import StoreUnavailable
from safety_proxy.evidence import Evidence
from safety_proxy.logs import get_logger
from safety_proxy.media.spool import Media, Spooler
from safety_proxy.policy.explain import Explanation
from safety_proxy.policy.judge import Judge
from safety_proxy.policy.policy import Policy
from safety_proxy.proof import Proof
from safety_proxy.proxy.fetch import Fetcher
from safety_proxy.scanner import Scanner
from safety_proxy.settings import PolicySettings
from safety_proxy.store.evidence import EvidenceStore
from safety_proxy.store.hashlist import HashLists
from safety_proxy.store.pictures import Known
from safety_proxy.verdict import Action

_logger = get_logger(__name__)

# Who asks by a command is patient.
_SECONDS = 60.0


class Administration:
    """The routes for policies, lists and explanations, and what SIGHUP calls."""

    def __init__(
        self,
        settings: PolicySettings,
        *,
        scanner: Scanner,
        lists: HashLists,
        evidence: EvidenceStore,
        fetcher: Fetcher,
        spooler: Spooler,
        proof: Proof,
    ) -> None:
        self._scanner = scanner
        self._proof = proof
        self._evidence = evidence
        self._fetcher = fetcher
        self._policies = PolicyAdmin(
            evidence.database,
            active=self._active,
            build_judge=self._build_judge,
            switch=proof.switch,
            settings=settings,
        )
        explaining = Explaining(
            look=self._look,
            known=self._known,
            recorded=self._recorded,
            fetch=self._fetch,
            explain=self._explain,
            unreadable=self._unreadable,
        )
        self._decisions = ListsAdmin(lists, spooler=spooler, look=self._look, known=self._known)
        self.routes = [
            *self._policies.routes,
            *self._decisions.routes,
            *ExplainAdmin(lists, explaining, spooler=spooler).routes,
        ]

    async def reload(self) -> None:
        """Reads `policy.file` and the lists anew; what is wrong is logged, and stays as it was."""
        await self._policies.reload()
        try:
            await self._decisions.reload()
        except StoreUnavailable as error:
            _logger.error("the lists stay as they were", detail=str(error))  # noqa: TRY400 -- no bug

    def _active(self) -> Active | None:
        model = self._scanner.model
        return Active(model.fingerprint, model.judge) if model else None

    async def _build_judge(self, policy: Policy) -> Judge:
        model = self._scanner.loaded()
        judge = await asyncio.to_thread(model.judge_of, policy)
        await self._proof.check(judge)
        return judge

    async def _look(self, media: Media) -> Evidence:
        evidence, _ = await self._scanner.look(media, Deadline.after(_SECONDS))
        return evidence

    async def _known(self, sha256: str) -> Evidence | None:
        return await self._evidence.get(sha256, self._scanner.loaded().fingerprint)

    async def _recorded(self, sha256: str) -> Known | None:
        return next(iter(await self._evidence.known(sha256)), None)

    async def _fetch(self, address: str, opened: ExitStack) -> Media:
        fetched = await self._fetcher.fetch(address, opened, deadline=Deadline.after(_SECONDS))
        assert fetched is not None  # it was not asked whether something has changed
        return fetched.media

    def _explain(self, evidence: Evidence) -> Explanation:
        return self._scanner.loaded().judge.explain(evidence.embeddings, evidence.places)

    def _unreadable(self) -> Action:
        return self._scanner.loaded().judge.policy.unreadable
