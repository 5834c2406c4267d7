"""What is told, as events of the OpenLineage library. The one place that knows its types; imported when it is needed.

Facets of our own are ``headrace_<family>``, under the schema of all run facets. See docs/lineage.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TypeVar, cast

with warnings.catch_warnings():
    # The library's own modules import those that it has deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from openlineage.client import constants
    from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
    from openlineage.client.facet_v2 import (
        DatasetFacet,
        InputDatasetFacet,
        JobFacet,
        OutputDatasetFacet,
        RunFacet,
        base_subset_dataset,
        dataset_version_dataset,
        documentation_job,
        error_message_run,
        execution_parameters_run,
        input_statistics_input_dataset,
        job_type_job,
        nominal_time_run,
        output_statistics_output_dataset,
        parent_run,
        processing_engine_run,
        schema_dataset,
        symlinks_dataset,
    )

from streams.lineage.code import code_version
from streams.lineage.happening import Contract, Dataset, Happening

FacetT = TypeVar("FacetT", RunFacet, DatasetFacet)
# Under which a digest is found, whatever the name of the folder that holds the content.
DIGESTS = "headrace-export"


class Events:
    """Makes events. ``parent`` is namespace, job and run id of what started this process."""

    def __init__(self, namespace: str, parent: tuple[str, str, str] | None = None) -> None:
        self._namespace, self._parent = namespace, parent
        self._producer = f"urn:headrace:{code_version()}"

    def event(self, told: Happening) -> RunEvent:
        """The event. Raises ``ValueError`` for what the library does not take."""
        return RunEvent(
            eventType=RunState(told.phase),
            eventTime=_iso(told.at),
            run=Run(runId=str(told.run_id), facets=self._run(told)),
            job=Job(namespace=self._namespace, name=told.job, facets=self._job(told)),
            inputs=[self._input(one) for one in told.inputs],
            outputs=[self._output(one) for one in told.outputs],
            producer=self._producer,
        )

    def _run(self, told: Happening) -> dict[str, RunFacet]:
        by = self._producer
        facets: dict[str, RunFacet] = {
            "processing_engine": processing_engine_run.ProcessingEngineRunFacet(
                version=code_version(),
                name="headrace",
                openlineageAdapterVersion=constants.__version__,
                producer=by,
            ),
            f"headrace_{told.family}": _own(RunFacet(producer=by), told.facts),
        }
        if told.since is not None:
            facets["nominalTime"] = nominal_time_run.NominalTimeRunFacet(
                nominalStartTime=_iso(told.since),
                nominalEndTime=None if told.until is None else _iso(told.until),
                producer=by,
            )
        if told.parameters:
            facets["executionParameters"] = execution_parameters_run.ExecutionParametersRunFacet(
                parameters=[
                    execution_parameters_run.ExecutionParameter(key=name, name=name, value=value)
                    for name, value in told.parameters.items()
                ],
                producer=by,
            )
        if told.error:
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(
                message=told.error, programmingLanguage="PYTHON", producer=by
            )
        if self._parent is not None:
            namespace, job, run_id = self._parent
            facets["parent"] = parent_run.ParentRunFacet(
                run=parent_run.Run(runId=run_id), job=parent_run.Job(namespace=namespace, name=job), producer=by
            )
        return facets

    def _job(self, told: Happening) -> dict[str, JobFacet]:
        kind = job_type_job.JobTypeJobFacet(
            processingType="BATCH", integration="HEADRACE", jobType=told.family.upper(), producer=self._producer
        )
        facets: dict[str, JobFacet] = {"jobType": kind}
        if told.description:
            facets["documentation"] = documentation_job.DocumentationJobFacet(
                description=told.description, producer=self._producer
            )
        return facets

    def _input(self, dataset: Dataset) -> InputDataset:
        by = self._producer
        facets: dict[str, InputDatasetFacet] = {}
        if dataset.stretches:
            partitions = [
                base_subset_dataset.Partition(
                    identifier=f"{dataset.name}-{number}",
                    dimensions={"partition": number, "first_offset": first, "end_offset": end},
                )
                for number, (first, end) in sorted(dataset.stretches.items())
            ]
            facets["subset"] = base_subset_dataset.InputSubsetInputDatasetFacet(
                inputCondition=base_subset_dataset.PartitionSubsetCondition(partitions=partitions), producer=by
            )
        if dataset.records is not None:
            facets["inputStatistics"] = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
                rowCount=dataset.records, size=dataset.size_bytes, fileCount=dataset.files, producer=by
            )
        return InputDataset(
            namespace=dataset.namespace, name=dataset.name, facets=self._dataset(dataset), inputFacets=facets
        )

    def _output(self, dataset: Dataset) -> OutputDataset:
        facets: dict[str, OutputDatasetFacet] = {}
        if dataset.records is not None:
            facets["outputStatistics"] = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
                rowCount=dataset.records, size=dataset.size_bytes, fileCount=dataset.files, producer=self._producer
            )
        return OutputDataset(
            namespace=dataset.namespace, name=dataset.name, facets=self._dataset(dataset), outputFacets=facets
        )

    def _dataset(self, dataset: Dataset) -> dict[str, DatasetFacet]:
        by = self._producer
        facets: dict[str, DatasetFacet] = {}
        if dataset.contract is not None:
            facets |= self._contract(dataset.contract)
        if dataset.digest:
            facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(
                datasetVersion=dataset.digest, producer=by
            )
            facets["symlinks"] = symlinks_dataset.SymlinksDatasetFacet(
                identifiers=[symlinks_dataset.Identifier(namespace=DIGESTS, name=dataset.digest, type="EXPORT")],
                producer=by,
            )
        return facets

    def _contract(self, contract: Contract) -> dict[str, DatasetFacet]:
        by = self._producer
        said = {"record": contract.name, "schema_id": contract.schema_id}
        facets: dict[str, DatasetFacet] = {
            "headrace_schema": _own(DatasetFacet(producer=by), {k: v for k, v in said.items() if v is not None})
        }
        if contract.columns:
            facets["schema"] = schema_dataset.SchemaDatasetFacet(
                fields=[
                    schema_dataset.SchemaDatasetFacetFields(
                        name=one.name, type=one.type, description=one.doc or None, ordinal_position=place
                    )
                    for place, one in enumerate(contract.columns, start=1)
                ],
                producer=by,
            )
        return facets


def _own(facet: FacetT, facts: Mapping[str, object]) -> FacetT:
    """The facet with facts of our own."""
    return cast("FacetT", facet.with_additional_properties(**facts))


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
